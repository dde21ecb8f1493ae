"""A language model behind HTTP: any endpoint that speaks OpenAI's chat completions, streamed.

A request is tried again only while nothing of its answer was given, so nothing is said twice: when no connection came about or it
broke, and when the endpoint said 429 or 5xx. All tries together have the time that the configuration gives to a first piece, less
a tenth: so the stage is told what happened instead of finding out that nothing did.

Errors go to clients, so they do not name the endpoint's address; the log does. Neither has the key.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError, ModelMissingError
from rtvi_actors.llm.completions import Received, Refusal, TryLaterError, cleaned, refusal
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.llm.fitting import Fitting, estimated_cost
from rtvi_actors.llm.sse import SseEvents

if TYPE_CHECKING:
    import httpx

    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
"""Answers that stream at the same time; a further request waits for one of them to end."""
MAX_TRIES = 4
FIRST_PAUSE_S = 0.1
"""Before the second try, unless the endpoint asks for another; doubled each time, and a little uneven so that sessions spread."""
OWN_SHARE = 0.9
"""Part of the stage's time-outs after which this gives up."""
USAGE_WAIT_S = 0.1
"""The count of tokens comes behind the end of the answer. It is waited for so long: the last sentence waits with it."""
MAX_ERROR_BYTES = 16_384
CLOSE_TIMEOUT_S = 2.0


class OpenAiLlm:
    """An LlmBackend on an endpoint; see ``llm.base_url`` and the keys behind it in the configuration.

    ``compute_ns`` of a request is the time since it was sent, tries that failed included: what the endpoint cost.
    """

    def __init__(self, config: Config) -> None:
        self._config = config.llm
        self._key = config.llm_api_key()
        self._url = config.llm.base_url.rstrip("/") + "/chat/completions"
        self._fitting = Fitting(config.llm.context_tokens, estimated_cost)
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._disliked: set[str] = set()
        """Keys of a request that this endpoint does not take."""

    def __repr__(self) -> str:
        return f"OpenAiLlm({self._url!r}, {self._config.model!r})"

    @property
    def memory_bytes(self) -> int:
        """The weights are somewhere else."""
        return 0

    def load(self) -> None:
        """Make the pool of connections. The endpoint may be down: it is asked when there is something to answer.

        Raises:
            ModelMissingError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise ModelMissingError("llm.backend = 'openai' needs httpx: run pip install rtvi_actors") from error
        for name in ("httpx", "httpcore"):  # they log each request, and what came with it
            logging.getLogger(name).setLevel(logging.WARNING)
        # Compressed pieces could be any size unpacked, and would come late: they are not asked for.
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        log.info("answers come from %s, asked %s key", self._url, "with a" if self._key else "without a")
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=self._config.connect_timeout_ms / 1_000),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS // 4),
        )

    def warm_up(self) -> None:
        """Nothing is computed here."""

    def forget(self, session: str) -> None:
        """Nothing is kept of a session."""

    def close(self) -> None:
        """Close the connections. Not from the event loop that serves the requests."""
        client, loop = self._client, self._loop
        self._client = None
        if client is None or loop is None or not loop.is_running():
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(client.aclose(), loop).result(CLOSE_TIMEOUT_S)

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """Answer ``request``, a piece for each event of the endpoint. Closing the iterator closes the connection.

        Raises:
            EngineError: the endpoint refuses the request, or sends what is no answer.
            TryLaterError: it is down, overloaded, or broke off.
            EngineTimeoutError: no first or no further piece in time.
            EngineLostError: the backend is closed.
        """
        self._loop = asyncio.get_running_loop()
        begun_ns = time.monotonic_ns()
        deadline_s = self._loop.time() + OWN_SHARE * self._config.timeout_ms / 1_000
        answer = Received(request.max_tokens)
        tries = 0
        while True:
            body, wait_s = self._body(request), None
            try:
                async with aclosing(self._try(body, answer, deadline_s)) as texts:
                    async for text in texts:
                        yield LlmPiece(text, compute_ns=time.monotonic_ns() - begun_ns)
                break
            except Refusal as refused:
                if key := refused.wants_other_key_than(body):
                    self._disliked.add(key)
                    continue
                failure = refused.explained(self._config.model, self._config.api_key_env, has_key=bool(self._key))
                wait_s = refused.wait_s
            except EngineError as error:
                failure = error
            tries += 1
            log.warning("%s, try %d: %s", self._url, tries, failure)
            if not isinstance(failure, TryLaterError) or answer.chars or tries >= MAX_TRIES:
                raise failure
            await _pause(tries, wait_s, deadline_s, failure)
        usage = answer.usage
        yield LlmPiece("", time.monotonic_ns() - begun_ns, answer.reason, usage.prompt_tokens, usage.completion_tokens)

    def _body(self, request: LlmRequest) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.content} for message in self._fitting.fit(request.messages)]
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": messages,
            "temperature": request.temperature,
            "stream": True,
            "max_completion_tokens" if "max_tokens" in self._disliked else "max_tokens": request.max_tokens,
        }
        if "stream_options" not in self._disliked:
            body["stream_options"] = {"include_usage": True}
        return body

    # ------------------------------------------------------------------------------------------------------------ one try

    async def _try(self, body: dict[str, Any], answer: Received, deadline_s: float) -> AsyncGenerator[str, None]:
        """The texts of one request. ``answer`` takes note of what came.

        Raises:
            Refusal: the endpoint answered with an error.
        """
        response = await self._ask(body, deadline_s)
        try:
            if response.status_code != 200:
                said, retry_after = await _error_body(response, deadline_s), response.headers.get("retry-after", "")
                raise refusal(response.status_code, said, retry_after, time.time(), self._key)
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            encoding = response.headers.get("content-encoding", "identity")
            if kind != "text/event-stream" or encoding != "identity":
                sent = cleaned(f"{encoding} {kind}".removeprefix("identity "), self._key)
                raise EngineError(f"the endpoint does not stream: it sent {sent!r} instead of text/event-stream")
            async with aclosing(self._events(response, answer, deadline_s)) as events:
                async for event in events:
                    if text := answer.take(event):
                        yield text
                    if answer.cut_off:
                        return
            if not answer.reason:
                raise TryLaterError("the endpoint broke off in the middle of the answer")
        finally:
            await response.aclose()

    async def _ask(self, body: dict[str, Any], deadline_s: float) -> httpx.Response:
        """Send the request; the beginning of the answer."""
        import httpx

        if self._client is None:
            raise EngineLostError("the endpoint of the language model is closed")
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._client.send(self._client.build_request("POST", self._url, json=body), stream=True)
        except TimeoutError:
            raise _timed_out("answer", self._config.timeout_ms) from None
        except httpx.ConnectTimeout:
            raise TryLaterError(f"no connection to the endpoint within {self._config.connect_timeout_ms} ms") from None
        except (httpx.HTTPError, RuntimeError) as error:  # the latter: closed meanwhile
            why = cleaned(str(error) or type(error).__name__, self._key)
            raise TryLaterError(f"no connection to the endpoint: {why}") from None

    async def _events(self, response: httpx.Response, answer: Received, deadline_s: float) -> AsyncGenerator[bytes, None]:
        """The data of the events. Only text keeps the time-outs from running: an endpoint may send comments for ever."""
        import httpx

        parser, loop, chars = SseEvents(), asyncio.get_running_loop(), 0
        body: AsyncIterator[bytes] = response.aiter_raw()
        while True:
            if answer.chars > chars:
                chars = answer.chars
                deadline_s = loop.time() + OWN_SHARE * self._config.idle_timeout_ms / 1_000
            if answer.reason:
                deadline_s = min(deadline_s, loop.time() + USAGE_WAIT_S)
            try:
                async with asyncio.timeout_at(deadline_s):
                    chunk = await anext(body, None)
            except TimeoutError:
                if answer.reason:
                    return
                raise _timed_out(
                    "more" if chars else "text", self._config.idle_timeout_ms if chars else self._config.timeout_ms
                ) from None
            except httpx.HTTPError:
                chunk = None  # an end like the other, if the answer was complete
            if chunk is None:
                return
            for event in parser.push(chunk):
                if event.strip() == b"[DONE]":
                    return
                yield event


async def _error_body(response: httpx.Response, deadline_s: float) -> bytes:
    """What the endpoint says of its error, as far as it comes."""
    import httpx

    body = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout_at(deadline_s):
            async for chunk in response.aiter_raw():
                body += chunk[: MAX_ERROR_BYTES - len(body)]
                if len(body) >= MAX_ERROR_BYTES:
                    break
    return body


async def _pause(tries: int, wait_s: float | None, deadline_s: float, failure: EngineError) -> None:
    """Wait before the next try. Raises ``failure`` if that would come too late."""
    if wait_s is None:
        wait_s = FIRST_PAUSE_S * 2 ** (tries - 1) * random.uniform(0.8, 1.2)
    if asyncio.get_running_loop().time() + wait_s >= deadline_s:
        raise failure
    await asyncio.sleep(wait_s)


def _timed_out(what: str, timeout_ms: int) -> EngineTimeoutError:
    return EngineTimeoutError(f"the endpoint gave no {what} for {OWN_SHARE * timeout_ms:.0f} ms")
