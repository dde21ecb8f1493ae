"""The web application on a real socket: routes, refusals, the WebSocket door, limits of the connection, the end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rtvi_actors.config import Config
from rtvi_actors.edge import app, start, websocket
from rtvi_actors.edge.wire import MessageIn, decode, encode_audio, encode_message
from rtvi_actors.errors import ConfigError
from rtvi_actors.frames.types import Attach, Audio, ClientMessage
from rtvi_actors.rtvi.messages import Message

pytestmark = pytest.mark.unit

READY = encode_message(json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "r1", "data": {"version": "2.1.0"}}))
LIMIT = 4_096
BOTS = {"shop": "apps:Shop"}


class Web:
    """A served edge."""

    def __init__(self, edge: Any, server: app.Server, port: int) -> None:
        self.edge = edge
        self.server = server
        self.port = port
        self.http = f"http://127.0.0.1:{port}"
        self.ws = f"ws://127.0.0.1:{port}/ws"

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.ask("GET", path, headers=headers)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.request(method, self.http + path, **options)


@contextlib.asynccontextmanager
async def served(make_edge: Callable[..., Any], **settings: Any) -> AsyncIterator[Web]:
    edge = make_edge(edge=settings)
    listener = app.bind("127.0.0.1", 0)
    config = Config().replace(edge=settings, bots=BOTS)
    server = app.Server(app.build(edge.sessions, config), config.edge)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield Web(edge, server, listener.getsockname()[1])
    await edge.sessions.stop(2.0)
    server.should_exit = True
    async with asyncio.timeout(5):
        await serving
    assert edge.admission.taken == set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def web(make_edge: Callable[..., Any]) -> AsyncIterator[Web]:
    async with served(make_edge, max_message_bytes=LIMIT, send_buffer_bytes=65_536) as web:
        yield web


async def message(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        received = decode(await client.recv(decode=False))
    assert isinstance(received, MessageIn)
    parsed: dict[str, Any] = json.loads(received.text)
    return parsed


async def greet(client: ClientConnection) -> None:
    await client.send(READY)
    assert (await message(client))["type"] == "bot-ready"


async def test_routes(web: Web) -> None:
    assert (await web.get("/health")).json() == {"status": "up"}
    assert (await web.get("/ready")).json() == {"status": "ready"}
    assert "/ws" in (await web.get("/about")).text
    missing = await web.get("/nowhere")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert (await web.get("/health", Origin="https://example.org")).headers["access-control-allow-origin"] == "*"


async def test_not_ready_while_no_place_is_free(web: Web) -> None:
    web.edge.admission.places = 0
    answer = await web.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {"detail": "all places are in use", "retry_after_ms": 1_500}
    assert (await web.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/ws", "/ws-client"])
async def test_a_client_gets_a_session(web: Web, path: str) -> None:
    async with connect(f"ws://127.0.0.1:{web.port}{path}") as client:
        await greet(client)
        assert web.edge.admission.taken == {"s1"}


@pytest.mark.parametrize(("path", "key"), [("/start", "wsUrl"), ("/connect", "ws_url")])
async def test_a_start_tells_where_to_connect(web: Web, path: str, key: str) -> None:
    answer = await web.ask("POST", path, json={"bot": "shop", "body": {"user": "Ada"}}, headers={"Origin": "https://example.org"})
    assert answer.status_code == 200
    # The JavaScript client's transport throws for any other key.
    assert list(answer.json()) == [key]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "no-store"
    url = answer.json()[key]
    assert url.startswith(f"{web.ws}?token=")
    async with connect(url) as client:
        await greet(client)
        (attach,) = web.edge.stages.got("llm", Attach)
        assert (attach.bot, json.loads(attach.body)) == ("apps:Shop", {"user": "Ada"})
        with pytest.raises(InvalidStatus) as refusal:
            await connect(url)
    response = refusal.value.response
    assert response.status_code == 403
    assert "POST /start" in json.loads(response.body or b"")["detail"]


async def test_the_last_of_several_tokens_counts(web: Web) -> None:
    url = (await web.ask("POST", "/start")).json()["wsUrl"]
    async with connect(url.replace("?", "?token=old&")) as client:
        await greet(client)


async def test_a_start_without_a_place_is_refused(web: Web) -> None:
    web.edge.admission.places = 0
    answer = await web.ask("POST", "/start")
    assert answer.status_code == 503
    assert answer.json() == {"detail": "all places are in use", "retry_after_ms": 1_500}


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"{", 400), (b'{"bot": "bakery"}', 400), (b'{"transport": "webrtc"}', 400), (b"[" * 100, 400), (b" " * 65_537, 413)],
)
async def test_a_bad_start_takes_no_place(web: Web, data: bytes, status: int) -> None:
    answer = await web.ask("POST", "/start", content=data, headers={"Origin": "https://example.org"})
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert answer.headers["access-control-allow-origin"] == "*"
    assert web.edge.admission.given == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_a_start_is_a_post(web: Web, method: str) -> None:
    answer = await web.ask(method, "/start")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert answer.json() == {"detail": "Method Not Allowed"}


async def test_a_browser_of_another_origin_may_start(web: Web) -> None:
    headers = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-anything",
    }
    answer = await web.ask("OPTIONS", "/start", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "content-type" in answer.headers["access-control-allow-headers"].lower()


async def test_a_start_that_never_comes_is_given_up(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "READ_DEADLINE_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(b"POST /start HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
    async with asyncio.timeout(5):
        assert b"408" in await reader.readline()
    writer.close()


async def test_forwarded_headers_are_believed_only_where_it_is_configured(make_edge: Any) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "voice.example.org"}
    for settings, begin in [
        ({}, "ws://127.0.0.1:"),
        ({"trust_forwarded": True}, "wss://voice.example.org/ws?token="),
        ({"public_url": "https://other.example.org/a"}, "wss://other.example.org/a/ws?token="),
    ]:
        async with served(make_edge, **settings) as web:
            answer = await web.ask("POST", "/start", headers=forwarded)
            assert answer.json()["wsUrl"].startswith(begin)


async def test_where_a_start_is_required_nobody_comes_in_without(make_edge: Any) -> None:
    async with served(make_edge, require_start=True) as web:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(web.ws)
        assert refusal.value.response.status_code == 403
        async with connect((await web.ask("POST", "/start")).json()["wsUrl"]) as client:
            await greet(client)


async def test_a_refusal_comes_before_the_accept(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    web.edge.admission.places = 0
    with pytest.raises(InvalidStatus) as refusal:
        await connect(web.ws)
    response = refusal.value.response
    assert response.status_code == 503
    assert json.loads(response.body or b"") == {"detail": "all places are in use", "retry_after_ms": 1_500}
    assert response.headers["Retry-After"] == "2"
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_closing_client_frees_its_place(web: Web, until: Any) -> None:
    async with connect(web.ws) as client:
        await greet(client)
    await until(lambda: web.edge.admission.released == [("s1", True)])


async def test_a_resetting_client_frees_its_place(web: Web, until: Any) -> None:
    client = await connect(web.ws)
    await greet(client)
    client.transport.close()
    await until(lambda: web.edge.admission.released == [("s1", True)])


async def test_what_is_no_frame_is_answered_and_the_session_goes_on(web: Web) -> None:
    async with connect(web.ws) as client:
        for data in (b"garbage", "text", bytes(LIMIT + 1), bytes(15 * LIMIT)):
            await client.send(data)
        # Both large ones are of one kind, which is told once a second.
        errors = [await message(client) for _ in range(3)]
        assert [error["data"]["fatal"] for error in errors] == [False] * 3
        await greet(client)


async def test_a_client_that_begins_with_text_is_served_in_text(web: Web) -> None:
    async with connect(web.ws) as client:
        for data in ("{", READY, '{"label": "rtvi-ai", "type": "client-ready", "id": "r2", "data": {"version": "2.2.0"}}'):
            await client.send(data)
        async with asyncio.timeout(5):
            received = [json.loads(await client.recv(decode=True)) for _ in range(3)]
        assert [told["type"] for told in received] == ["error", "error", "bot-ready"]
        assert [told["data"].get("fatal", False) for told in received] == [False] * 3


async def test_a_message_far_over_the_limit_closes_the_connection(web: Web, until: Any) -> None:
    async with connect(web.ws) as client:
        await greet(client)
        await client.send(bytes(17 * LIMIT))
        with pytest.raises(ConnectionClosed) as closed:
            await message(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    await until(lambda: web.edge.admission.released == [("s1", True)])


async def test_a_lost_stage_is_told_and_closes_with_1011(web: Web) -> None:
    async with connect(web.ws) as client:
        await greet(client)
        web.edge.stages.die("llm")
        assert (await message(client))["data"]["fatal"] is True
        with pytest.raises(ConnectionClosed) as closed:
            await message(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011


async def test_the_stop_tells_clients_that_it_goes_away(web: Web) -> None:
    async with connect(web.ws) as client:
        await greet(client)
        await web.edge.sessions.stop(2.0)
        assert (await message(client))["data"]["reason"] == "server-stopping"
        assert (await message(client))["data"]["fatal"] is True
        with pytest.raises(ConnectionClosed) as closed:
            await message(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_a_client_that_reads_nothing_is_cut_off(web: Web, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_DEADLINE_S", 0.05)
    writer = await _raw_handshake(web.port)
    await until(lambda: web.edge.admission.taken == {"s1"})
    (session,) = web.edge.sessions._sessions.values()
    while not web.edge.admission.released:
        session._conversation.send(Message("server-message", "x" * 32_000))
        await asyncio.sleep(0.001)
    assert web.edge.admission.released == [("s1", True)]
    # It still reads nothing, but the server holds nothing of it any more.
    await until(lambda: not web.server.server_state.connections)
    writer.close()


async def test_a_client_that_vanished_while_the_bot_talked_is_noticed_by_its_pings(make_edge: Any, until: Any) -> None:
    async with served(make_edge, ping_interval_ms=100) as web:
        writer = await _raw_handshake(web.port)
        await until(lambda: web.edge.admission.taken == {"s1"})
        (session,) = web.edge.sessions._sessions.values()
        for _ in range(40):
            session._conversation.send(Message("server-message", "x" * 32_000))
        await until(lambda: web.edge.admission.released == [("s1", True)])
        writer.close()


async def _raw_handshake(port: int) -> asyncio.StreamWriter:
    """A WebSocket whose receiving end is small, and not read from."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    key = base64.b64encode(bytes(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    with app.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"^port {port} is in use; choose another with --port$"):
            app.bind("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_told_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="--host"):
        app.bind("203.0.113.7", 0)
    with pytest.raises(ConfigError, match="--host"):
        app.bind("no.such.host.invalid", 0)


async def test_messages_of_any_size_and_kind_are_taken_in_their_order(web: Web, until: Any) -> None:
    """Binary ones are handed over where they are read, the fragmented and the text ones on their way through a queue."""

    def custom(number: int, padding: int = 0) -> bytes:
        data = {"t": "count", "d": {"number": number, "padding": "x" * padding}}
        return encode_message(json.dumps({"label": "rtvi-ai", "type": "client-message", "id": str(number), "data": data}))

    def taken() -> list[str]:
        return [frame.id for frame in web.edge.stages.got("llm", ClientMessage) if frame.type == "client-message"]

    async with connect(web.ws) as client:
        await greet(client)
        for number in range(0, 300, 3):
            await client.send(custom(number, padding=3_000))
            whole = custom(number + 1)
            await client.send([whole[:20], whole[20:]])
            await client.send("text")
            await client.send(custom(number + 2))
        await until(lambda: len(taken()) == 300)
    assert taken() == [str(number) for number in range(300)]


async def test_what_a_client_sent_last_is_taken_before_it_is_gone(web: Web, until: Any) -> None:
    async with connect(web.ws) as client:
        await greet(client)
        for _ in range(10):
            await client.send(encode_audio(bytes(1_024), 16_000))
        client.transport.close()
    await until(lambda: web.edge.admission.released)
    assert len(web.edge.stages.got("speaking", Audio)) == 10
