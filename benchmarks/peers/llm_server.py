"""The language model of this repository as an OpenAI-compatible server: streamed chat completions, and nothing else of that API.

It runs in our environment and answers the tuned Pipecat, so that both have the same model in the same program. ``user`` names the
session, whose next prompt the backend may compute ahead.

    python benchmarks/peers/llm_server.py --port 8001
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from rtvi_actors.config import Config
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.llm.engine import ChatMessage, LlmBackend, LlmRequest
from rtvi_actors.runtime.process import load_class

MODEL = "default"


def loading(backend: LlmBackend) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """The life of the server: the backend is loaded before its first request and closed after its last."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(backend.load)
        await asyncio.to_thread(backend.warm_up)
        try:
            yield
        finally:
            await asyncio.to_thread(backend.close)

    return lifespan


def application(backend: LlmBackend) -> Starlette:
    """``POST /v1/chat/completions`` and ``GET /health`` on ``backend``."""

    async def complete(request: Request) -> StreamingResponse:
        body = await request.json()
        messages = [ChatMessage(message["role"], message["content"]) for message in body["messages"]]
        asked = LlmRequest(messages, int(body.get("max_tokens", 64)), float(body.get("temperature", 0.0)))
        return StreamingResponse(events(body.get("user", "anybody"), asked), media_type="text/event-stream")

    async def events(session: str, asked: LlmRequest) -> AsyncIterator[str]:
        # Closing the response, as an interruption does, closes the stream and stops the model.
        async with aclosing(backend.stream(session, asked)) as pieces:
            async for piece in pieces:
                choice: dict[str, Any] = {"index": 0, "delta": {"role": "assistant", "content": piece.text}}
                choice["finish_reason"] = piece.finish_reason or None
                chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=loading(backend))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    config = Config()
    backend = load_class(backend_class("llm", config.llm.backend), "llm.backend")(config)
    uvicorn.run(application(backend), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
