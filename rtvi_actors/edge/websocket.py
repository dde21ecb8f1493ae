"""The WebSocket door: a place first, then the accept; one session per socket.

Runs under uvicorn with :class:`AbortableWebSocket`, which lets go of a client that reads nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from rtvi_actors.edge.client import ClientGoneError
from rtvi_actors.edge.reads import Reads
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import AuthError, CapacityError
from rtvi_actors.observe.log_context import about

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 1.0
"""How long a close frame may wait for a client that does not read; then the connection is cut."""
LINGER_S = 3.0
"""How long a client may take to answer the close frame; then the connection is cut."""
ABORT = "rtvi_actors.abort"
HEAR = "rtvi_actors.hear"
LONG_READ_BYTES = 32_768
"""A client of which so much came at once is not read from before this has been looked at."""

Hear = Callable[[bytes], None]


class AbortableWebSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket with two ASGI extensions.

    One cuts the connection: sending never returns while nobody reads. The other, ``hear(callback, reads)``, has binary messages
    handed to a callback instead of ``receive``, where each would wake a task, and stop and start the reading of the socket: that
    costs as much as all that is done with a microphone's frame. And it has what is read looked at together with what other
    clients sent. The order is kept: what waits for ``receive`` is taken first. Text, and the disconnect, come there.

    A refused handshake counts as complete, which saves an error in the log for each client that finds no place.
    """

    _callback: Hear | None = None
    _reads: Reads | None = None

    def handle_connect(self, event: Request) -> None:
        """Add the extensions to the scope, which the application sees when its task first runs."""
        super().handle_connect(event)
        scope = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][ABORT] = self.transport.abort
            scope["extensions"][HEAR] = self._hear

    def _hear(self, callback: Hear, reads: Reads) -> None:
        self._callback, self._reads = callback, reads

    def data_received(self, data: bytes) -> None:
        """Take bytes, together with those of other clients."""
        if self._reads is None:
            super().data_received(data)
            return
        if len(data) >= LONG_READ_BYTES:
            self.transport.pause_reading()
        self._reads.add(self._look_at, data)

    def _look_at(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception:
            self.transport.abort()  # as a loop does whose callback fails
            raise
        if len(data) >= LONG_READ_BYTES and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take what it sent last first."""
        if self._reads is not None:
            self._reads.look()
        super().connection_lost(exc)

    def handle_bytes(self, event: Frame) -> None:
        """Hand a binary message to the callback, if there is one, and if it is whole."""
        if self._callback is None or not event.fin or self.close_sent or not self.queue.empty():
            super().handle_bytes(event)
        else:
            self._callback(bytes(event.data))

    def keepalive_timeout(self) -> None:
        """Cut the connection of a client that answers no ping: closing it would wait until it has read what is on its way."""
        super().keepalive_timeout()
        self.transport.abort()

    async def send(self, message: Any) -> None:
        """Send, and note the end of a refusal."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True


class WebSocketClient:
    """A client on a WebSocket. Fulfils :class:`~rtvi_actors.edge.client.Client`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._abort: Callable[[], None] = socket.scope.get("extensions", {}).get(ABORT, _nothing)

    async def send_bytes(self, data: bytes) -> None:
        """See :class:`Client`."""
        await self._send({"type": "websocket.send", "bytes": data})

    async def send_text(self, text: str) -> None:
        """See :class:`Client`."""
        await self._send({"type": "websocket.send", "text": text})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self._socket.send(message)
        except (OSError, WebSocketDisconnect, RuntimeError) as error:
            # RuntimeError is how Starlette says that the socket was closed before.
            raise ClientGoneError(str(error)) from error

    async def close(self, code: int, reason: str) -> None:
        """See :class:`Client`."""
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            self._abort()
        except (OSError, WebSocketDisconnect, RuntimeError):
            return  # it is closed
        else:
            asyncio.get_running_loop().call_later(LINGER_S, self._abort)


async def serve(socket: WebSocket, sessions: Sessions, reads: Reads) -> None:
    """Serve one connection from its handshake to its end. A refusal is an HTTP answer, given before the accept.

    ``reads``: those of all connections.
    """
    # A client that connects again appends the newer token behind the older one.
    tokens = socket.query_params.getlist("token")
    try:
        session = await sessions.open(tokens[-1] if tokens else "")
    except CapacityError as refusal:
        await _refuse(socket, refused(refusal))
        return
    except AuthError as refusal:
        await _refuse(socket, JSONResponse({"detail": str(refusal)}, status_code=403))
        return
    with about(session.lease.session):
        try:
            await socket.accept()
            socket.scope.get("extensions", {}).get(HEAR, _nothing)(session.take, reads)
            await session.serve(WebSocketClient(socket), _incoming(socket))
        except (OSError, WebSocketDisconnect):
            log.info("session %s: its client left during the handshake", session.lease.session)
        finally:
            await sessions.close(session)


async def _refuse(socket: WebSocket, answer: JSONResponse) -> None:
    try:
        await socket.send_denial_response(answer)
    except (OSError, WebSocketDisconnect):
        log.info("a client left before it could be refused")


def refused(refusal: CapacityError) -> JSONResponse:
    """The HTTP answer to a client that cannot be served now."""
    seconds = max(1, -(-refusal.retry_after_ms // 1_000))
    body = {"detail": str(refusal), "retry_after_ms": refusal.retry_after_ms}
    return JSONResponse(body, status_code=503, headers={"Retry-After": str(seconds)})


async def _incoming(socket: WebSocket) -> AsyncIterator[bytes | str]:
    """What the client sends, but for what the callback gets, until it is gone."""
    while True:
        message: Any = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        yield data if data is not None else message.get("text") or ""


def _nothing(*_: object) -> None:
    """For servers without the extensions."""
