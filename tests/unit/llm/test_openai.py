"""The endpoint's backend against a server of this process that answers as each test says, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError
from rtvi_actors.llm import openai
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.openai import OpenAiLlm

pytestmark = pytest.mark.unit

KEY = "sk-SECRET"
REQUEST = LlmRequest([ChatMessage("system", "Be brief."), ChatMessage("user", "Hello.")], max_tokens=20, temperature=0.5)


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def text_event(text: str, **choice: Any) -> bytes:
    return event({"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, **choice}]})


DONE = b"data: [DONE]\n\n"
USAGE = event({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}})
STOP = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
HELLO = (
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}) + text_event("Hi") + text_event(" you. 🙂")
)
ANSWER = HELLO + STOP + USAGE + DONE


class Exchange:
    """One request at the server."""

    def __init__(self, head: str, body: dict[str, Any], writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> None:
        self.head = head
        self.body = body
        self.writer = writer
        self._reader = reader

    async def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await self.writer.drain()

    async def begin(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def answer(self, *chunks: bytes, **begin: Any) -> None:
        await self.begin(**begin)
        await self.send(*chunks)
        self.writer.write(b"0\r\n\r\n")

    async def refuse(self, status: int, said: Any = "", **headers: str) -> None:
        await self.answer(json.dumps({"error": {"message": said}}).encode(), status=status, kind="application/json", **headers)

    async def gone(self) -> None:
        """Wait until the client closes the connection."""
        while await self._reader.read(1_000):
            pass


Script = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """Each request gets the next of ``scripts``, the last one again and again."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.exchanges: list[Exchange] = []
        self.open = self.most_open = 0
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(next(line for line in head.lower().split("\r\n") if line.startswith("content-length")).split(":")[1])
                exchange = Exchange(head, json.loads(await reader.readexactly(length)), writer, reader)
                script = self.scripts[min(len(self.exchanges), len(self.scripts) - 1)]
                self.exchanges.append(exchange)
                self.open += 1
                self.most_open = max(self.open, self.most_open)
                try:
                    await script(exchange)
                finally:
                    self.open -= 1
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    server = Endpoint()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def backend(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., OpenAiLlm]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(openai, "FIRST_PAUSE_S", 0.001)
    made: list[OpenAiLlm] = []

    def make(**llm: Any) -> OpenAiLlm:
        config = Config().replace(llm={"backend": "openai", "base_url": endpoint.url, "model": "m", **llm})
        made.append(OpenAiLlm(config))
        made[-1].load()
        made[-1].warm_up()
        return made[-1]

    yield make
    for one in made:
        await asyncio.to_thread(one.close)


async def pieces_of(backend: OpenAiLlm, request: LlmRequest = REQUEST) -> list[LlmPiece]:
    return [piece async for piece in backend.stream("s", request)]


async def said_before(error: type[EngineError], backend: OpenAiLlm) -> tuple[str, EngineError]:
    """What was said before it failed, and how it failed."""
    texts: list[str] = []

    async def read() -> None:
        async for piece in backend.stream("s", REQUEST):
            texts.append(piece.text)

    with pytest.raises(error) as failure:
        await read()
    return "".join(texts), failure.value


def answers(*chunks: bytes, **begin: Any) -> Script:
    return lambda exchange: exchange.answer(*chunks, **begin)


def refuses(status: int, said: Any = "", **headers: str) -> Script:
    return lambda exchange: exchange.refuse(status, said, **headers)


async def hangs_up(exchange: Exchange) -> None:
    exchange.writer.close()


# ------------------------------------------------------------------------------------------------------------- it answers


async def test_an_answer(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [answers(ANSWER)]
    pieces = await pieces_of(backend())
    assert [piece.text for piece in pieces] == ["Hi", " you. 🙂", ""]
    assert [piece.finish_reason for piece in pieces] == ["", "", "stop"]
    assert (pieces[-1].prompt_tokens, pieces[-1].completion_tokens) == (11, 3)
    computed = [piece.compute_ns for piece in pieces]
    assert computed == sorted(computed)
    assert computed[0] > 0
    [asked] = endpoint.exchanges
    assert asked.head.startswith("POST /v1/chat/completions HTTP/1.1")
    assert f"Authorization: Bearer {KEY}" in asked.head
    assert asked.body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
        "max_tokens": 20,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_an_answer_in_small_pieces(endpoint: Endpoint, backend: Any, size: int) -> None:
    endpoint.scripts = [answers(*(ANSWER[at : at + size] for at in range(0, len(ANSWER), size)))]
    assert [piece.text for piece in await pieces_of(backend())] == ["Hi", " you. 🙂", ""]


async def test_an_answer_cut_at_every_byte(endpoint: Endpoint, backend: Any) -> None:
    answer = text_event("é€🙂") + STOP + DONE
    endpoint.scripts = [answers(answer[:at], answer[at:]) for at in range(1, len(answer))]
    client = backend()
    for _ in endpoint.scripts:
        assert [piece.text for piece in await pieces_of(client)] == ["é€🙂", ""]


async def test_text_comes_at_once(endpoint: Endpoint, backend: Any) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(text_event("Hi"))
        await go_on.wait()
        await exchange.send(text_event(" you"), STOP, DONE)

    endpoint.scripts = [script]
    async with aclosing(backend().stream("s", REQUEST)) as pieces:
        assert (await anext(pieces)).text == "Hi"
        go_on.set()
        assert [piece.text async for piece in pieces] == [" you", ""]


async def test_the_end_does_not_wait_for_figures(endpoint: Endpoint, backend: Any) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(text_event("Hi"), STOP)
        await exchange.gone()

    endpoint.scripts = [script]
    pieces = await pieces_of(backend())
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("Hi", ""), ("", "stop")]


async def test_an_end_without_done(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [answers(text_event("Hi", finish_reason="length"))]
    pieces = await pieces_of(backend())
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("Hi", ""), ("", "length")]


async def test_many_sessions_share_the_connections(endpoint: Endpoint, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "MAX_CONNECTIONS", 4)

    async def echo(exchange: Exchange) -> None:
        await asyncio.sleep(0.01)
        await exchange.answer(text_event(exchange.body["messages"][-1]["content"]), STOP, DONE)

    endpoint.scripts = [echo]
    client = backend()
    requests = [LlmRequest([ChatMessage("user", f"number {n}")], 20) for n in range(30)]
    all_pieces = await asyncio.gather(*(pieces_of(client, request) for request in requests))
    assert ["".join(piece.text for piece in pieces) for pieces in all_pieces] == [f"number {n}" for n in range(30)]
    assert endpoint.most_open == 4


async def test_without_a_key_requests_carry_none(endpoint: Endpoint, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.scripts = [answers(ANSWER)]
    await pieces_of(backend())
    assert "authorization" not in endpoint.exchanges[0].head.lower()


async def test_a_long_conversation_is_cut(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [answers(ANSWER)]
    texts = ["word " * 2_000 if n == 40 else f"Message {n}. " * 10 for n in range(41)]
    messages = [ChatMessage("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts)]
    await pieces_of(backend(context_tokens=2_000), LlmRequest([ChatMessage("system", "Be brief."), *messages], 20))
    sent = endpoint.exchanges[0].body["messages"]
    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert sent[-1]["content"].startswith("word word")
    assert sum(len(message["content"]) for message in sent) <= 3 * 2_000


# ------------------------------------------------------------------------------------------- parameters that are disliked


async def test_a_newer_name_for_the_longest_answer(endpoint: Endpoint, backend: Any) -> None:
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    endpoint.scripts = [refuses(400, said), refuses(422, "stream_options: extra inputs are not permitted"), answers(ANSWER)]
    client = backend()
    assert len(await pieces_of(client)) == 3
    assert len(await pieces_of(client)) == 3
    bodies = [exchange.body for exchange in endpoint.exchanges]
    assert len(bodies) == 4, "the second request knew"
    assert bodies[-1]["max_completion_tokens"] == 20
    assert not {"max_tokens", "stream_options"} & set(bodies[-1])


async def test_requests_at_once_learn_it_each(endpoint: Endpoint, backend: Any) -> None:
    both = asyncio.Barrier(2)

    async def script(exchange: Exchange) -> None:
        if "max_tokens" in exchange.body:
            await both.wait()
            await exchange.refuse(400, "use max_completion_tokens")
        else:
            await exchange.answer(ANSWER)

    endpoint.scripts = [script]
    client = backend()
    for pieces in await asyncio.gather(pieces_of(client), pieces_of(client)):
        assert len(pieces) == 3


# ------------------------------------------------------------------------------------------------------- it is tried again


@pytest.mark.parametrize(
    "first",
    [
        refuses(429),
        refuses(429, retry_after="0"),
        refuses(500),
        refuses(503, retry_after="x"),
        hangs_up,
        answers(b""),
        answers(STOP[:9]),
    ],
    ids=["429", "429 with a time", "500", "503", "hangs up", "nothing", "half an event"],
)
async def test_what_said_nothing_is_tried_again(endpoint: Endpoint, backend: Any, first: Script) -> None:
    endpoint.scripts = [first, first, answers(ANSWER)]
    assert "".join(piece.text for piece in await pieces_of(backend())) == "Hi you. 🙂"
    assert len(endpoint.exchanges) == 3


async def test_it_gives_up_after_some_tries(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [refuses(502, "secret things of ours")]
    said, error = await said_before(EngineError, backend())
    assert (said, str(error), error.retryable) == ("", "the endpoint failed (502)", True)
    assert len(endpoint.exchanges) == openai.MAX_TRIES


async def test_a_wait_that_is_too_long_is_not_waited_for(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [refuses(429, retry_after="3600")]
    _, error = await said_before(EngineError, backend())
    assert str(error) == "the endpoint has too many requests (429) and asks to wait 3600 s"
    assert error.retryable
    assert len(endpoint.exchanges) == 1


@pytest.mark.parametrize("end", ["hangs up", "ends", "error", "garbage"])
async def test_nothing_is_said_twice(endpoint: Endpoint, backend: Any, end: str) -> None:
    async def breaks_off(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(text_event("Once upon a"))
        if end == "hangs up":
            exchange.writer.close()
        elif end == "error":
            await exchange.send(event({"error": {"message": f"overloaded {KEY}", "code": 500}}))
        elif end == "garbage":
            await exchange.send(b"data: {]\n\n")
        else:
            exchange.writer.write(b"0\r\n\r\n")

    endpoint.scripts = [breaks_off, answers(ANSWER)]
    said, error = await said_before(EngineError, backend())
    assert said == "Once upon a"
    assert error.retryable == (end != "garbage")
    assert KEY not in str(error)
    assert len(endpoint.exchanges) == 1


# -------------------------------------------------------------------------------------------------------- it says what is wrong


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            refuses(404, "The model `m` does not exist"),
            "the endpoint knows no model 'm', or llm.base_url is wrong (404): The model `m`",
        ),
        (answers(b"<html>", status=404, kind="text/html"), "the endpoint knows no model 'm', or llm.base_url is wrong (404)"),
        (refuses(400, f"bad {KEY}\r\n\x1b[31mthing"), "the endpoint refuses the request (400): bad *** [31mthing"),
        (refuses(400, "x" * 9_999), "the endpoint refuses the request (400): xxxx"),
        (
            refuses(401, f"Incorrect API key provided: {KEY}"),
            "refuses the key (401): check the environment variable OPENAI_API_KEY",
        ),
        (refuses(301, location="http://elsewhere"), "the endpoint refuses the request (301)"),
        (answers(b'{"choices": []}', kind="application/json"), "does not stream: it sent 'application/json' instead of text/event"),
        (answers(b"\x1f\x8b", content_encoding="gzip"), "does not stream: it sent 'gzip text/event-stream'"),
        (answers(b"data: <html>\n\n"), "sent what is no piece of an answer"),
        (answers(event([1])), "sent what is no piece of an answer"),
        (answers(event({"choices": [{"delta": {"content": 7}}]})), "sent what is no piece of an answer"),
        (answers(b"data: \xff\xfe{}\n\n"), "sent what is no piece of an answer"),
        (answers(b"data: " + b"x" * 300_000), "an event of more than 262144 bytes"),
        (answers(event({"choices": [{"delta": {}, "finish_reason": "content_filter"}]})), "its content filter withholds it"),
        (answers(event({"choices": [{"delta": {}, "finish_reason": "length"}]})), "max_tokens went into something else"),
    ],
)
async def test_what_is_wrong_is_said_once(
    endpoint: Endpoint, backend: Any, script: Script, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.scripts = [script]
    with caplog.at_level(logging.DEBUG):
        said, error = await said_before(EngineError, backend())
    assert said == ""
    assert text in str(error)
    assert len(str(error)) < 350
    assert not error.retryable
    assert len(endpoint.exchanges) == 1
    assert endpoint.url not in str(error)
    assert endpoint.url in caplog.text
    assert KEY not in str(error) + repr(error) + caplog.text


async def test_a_key_that_is_missing(endpoint: Endpoint, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.scripts = [refuses(401)]
    _, error = await said_before(EngineError, backend())
    assert str(error) == "the endpoint wants a key (401): set the environment variable OPENAI_API_KEY"


async def test_an_endpoint_that_is_down(endpoint: Endpoint, backend: Any) -> None:
    client = backend()
    await endpoint.stop()
    _, error = await said_before(EngineError, client)
    assert error.retryable
    assert "no connection to the endpoint" in str(error)


async def test_an_endpoint_that_takes_no_connection(backend: Any) -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # fill its queue: the kernel answers nobody after that
            waiting.enter_context(other := socket.socket())
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        _, error = await said_before(EngineError, backend(base_url=url, connect_timeout_ms=30))
    assert str(error) == "no connection to the endpoint within 30 ms"
    assert error.retryable


async def test_the_key_is_in_no_repr(backend: Any) -> None:
    client = backend()
    assert KEY not in f"{client!r} {vars(client)['_client']!r} {client._config!r}"


# ------------------------------------------------------------------------------------------------------------------- time


async def never(exchange: Exchange) -> None:
    await exchange.gone()


async def only_comments(exchange: Exchange) -> None:
    await exchange.begin()
    while not exchange.writer.is_closing():
        await exchange.send(b": still there\n\n")
        await asyncio.sleep(0.002)


async def no_text(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.send(event({"choices": [{"index": 0, "delta": {"role": "assistant"}}]}))
    await exchange.gone()


@pytest.mark.parametrize("script", [never, only_comments, no_text])
async def test_no_first_text_in_time(endpoint: Endpoint, backend: Any, script: Script) -> None:
    endpoint.scripts = [script]
    said, error = await said_before(EngineTimeoutError, backend(timeout_ms=100))
    assert said == ""
    assert "for 90 ms" in str(error)
    assert len(endpoint.exchanges) <= 1


async def test_no_further_text_in_time(endpoint: Endpoint, backend: Any) -> None:
    async def stops(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(text_event("Once"))
        await exchange.gone()

    endpoint.scripts = [stops]
    said, error = await said_before(EngineTimeoutError, backend(idle_timeout_ms=100))
    assert (said, str(error)) == ("Once", "the endpoint gave no more for 90 ms")


async def test_all_tries_together_have_the_time_of_one(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [refuses(503, retry_after="0.05")]
    _, error = await said_before(EngineError, backend(timeout_ms=120))
    assert error.retryable
    assert len(endpoint.exchanges) < openai.MAX_TRIES


async def test_an_answer_without_an_end_is_cut_off(endpoint: Endpoint, backend: Any) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.begin()
        while not exchange.writer.is_closing():
            await exchange.send(text_event("again and " * 10))

    endpoint.scripts = [endless]
    pieces = await pieces_of(backend())
    assert pieces[-1].finish_reason == "length"
    assert sum(len(piece.text) for piece in pieces) < 20 * 32 + 200


# ----------------------------------------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize("how", ["closed", "cancelled", "cancelled before the first text"])
async def test_the_endpoint_sees_a_cancel_at_once(endpoint: Endpoint, backend: Any, how: str) -> None:
    seen, reached = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        if how != "cancelled before the first text":
            await exchange.send(text_event("Once"))
        reached.set()
        await exchange.gone()
        seen.set()

    endpoint.scripts = [script, answers(ANSWER)]
    client = backend()
    if how == "closed":
        async with aclosing(client.stream("s", REQUEST)) as pieces:
            await anext(pieces)
    else:
        task = asyncio.create_task(pieces_of(client))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(5):
        await seen.wait()
    assert len(await pieces_of(client)) == 3


async def test_a_closed_backend_refuses(endpoint: Endpoint, backend: Any) -> None:
    endpoint.scripts = [no_text]
    client = backend()
    running = asyncio.create_task(pieces_of(client))
    while not endpoint.exchanges:
        await asyncio.sleep(0.001)
    await asyncio.to_thread(client.close)
    with pytest.raises(EngineError) as error:
        await running
    assert error.value.retryable
    with pytest.raises(EngineLostError):
        await pieces_of(client)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    from rtvi_actors.llm.completions import refusal

    assert refusal(429, b"", value, now_s=60.0, key="").wait_s == wait_s
