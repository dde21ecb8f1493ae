"""Stages and backends that Ray tests host in actors: imported in the workers by name."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from rtvi_actors.engines.pool import EngineClient
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.frames.types import Attach, BotState, Clause, ClientMessage, Frame
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest


class EchoStages:
    """Makes echo stages."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def create(self, port: Any, attach: Attach) -> EchoStage:
        return EchoStage(port, attach)

    def close(self) -> None: ...


class EchoStage:
    """Sends a Clause back for each BotState; does what a ClientMessage's type says."""

    def __init__(self, port: Any, attach: Attach) -> None:
        self.port = port
        self.attach = attach
        self.engine = EngineClient(port, "llm", LlmRequest, LlmPiece)

    async def open(self) -> None:
        if self.attach.bot == "refuse":
            raise ModelMissingError("run: rtvi-actors models prepare")

    def receive(self, frame: Frame) -> None:
        if self.engine.receive(frame):
            return
        if isinstance(frame, BotState):
            self.port.send("edge", Clause(turn=frame.turn, clause=frame.turn, text=frame.state))
        elif isinstance(frame, ClientMessage) and frame.type == "ask":
            self.port.spawn(self._ask(frame.data.decode()), "ask")
        elif isinstance(frame, ClientMessage) and frame.type == "block":
            time.sleep(float(frame.data))
        elif isinstance(frame, ClientMessage) and frame.type == "die":
            os._exit(7)

    def peer_lost(self, role: str) -> None:
        self.engine.lost(role)

    async def close(self) -> None: ...

    async def _ask(self, text: str) -> None:
        request = LlmRequest(messages=[ChatMessage("user", text)], max_tokens=8)
        number = 0
        async for piece in self.engine.stream(request, first_timeout_ms=5_000, idle_timeout_ms=5_000):
            self.port.send("edge", Clause(turn=1, clause=number, text=piece.text))
            number += 1


class EchoBackend:
    """Answers with the words of the last message; waits for ever after the word ``wait``."""

    memory_bytes = 1_234

    def __init__(self, config: Any) -> None:
        self.config = config
        self.steps: list[str] = []

    def load(self) -> None:
        self.steps.append("load")

    def warm_up(self) -> None:
        assert self.steps == ["load"]
        assert os.environ["OMP_NUM_THREADS"] == str(self.config.llm.threads)

    async def stream(self, session: str, request: LlmRequest) -> AsyncIterator[LlmPiece]:
        for word in request.messages[-1].content.split():
            yield LlmPiece(text=word, compute_ns=1)
            if word == "wait":
                await asyncio.Event().wait()

    def close(self) -> None: ...


class MissingBackend(EchoBackend):
    """A model that is not prepared."""

    def load(self) -> None:
        raise ModelMissingError("llm.model = 'x': run: rtvi-actors models prepare")
