"""The web application of an edge, and the server that runs it in somebody else's event loop."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from rtvi_actors import config
from rtvi_actors.edge import console, metrics_page, start, websocket
from rtvi_actors.edge.reads import Reads
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import CapacityError, ConfigError

ABOUT = """\
rtvi_actors: a voice bot behind the RTVI protocol.

GET        /                     the console: talk with the bot in a browser
WebSocket  /ws (or /ws-client)   protobuf frames of Pipecat's WebSocketTransport
POST       /start (or /connect)  JSON: bot, body; answers where to connect, within 10 s
GET        /health               200: this process is up
GET        /ready                200: the next session can be admitted; 503: it cannot, and when to ask again
GET        /metrics              the app for Prometheus
"""

FAR_OVER = 16
"""A message of more than so many times the allowed size closes the connection; a smaller one that is too large is only refused."""
BACKLOG = 512
SEND_BUFFER_BYTES = 262_144
"""Of the kernel, per connection: what waits for a slow client should wait where it can be counted, and taken back."""
SHUTDOWN_S = 2


def build(sessions: Sessions, settings: config.Config) -> Starlette:
    """The application: routes, CORS (any origin; nothing here depends on cookies), and errors as JSON with ``detail``."""
    reads = Reads()

    async def serve_websocket(socket: WebSocket) -> None:
        await websocket.serve(socket, sessions, reads)

    async def ready(_: Request) -> Response:
        try:
            await sessions.ready()
        except CapacityError as refusal:
            return websocket.refused(refusal)
        return JSONResponse({"status": "ready"})

    return Starlette(
        routes=[
            *console.routes(sessions, settings),
            # Also at "/", where there is no console.
            Route("/", _about),
            Route("/about", _about),
            Route("/health", _health),
            Route("/ready", ready),
            *metrics_page.routes(sessions),
            *start.routes(sessions, settings),
            WebSocketRoute("/ws", serve_websocket),
            WebSocketRoute("/ws-client", serve_websocket),
        ],
        middleware=[Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])],
        exception_handlers={HTTPException: _http_error, Exception: _server_error},
    )


async def _about(_: Request) -> Response:
    return PlainTextResponse(ABOUT)


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "up"})


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


async def _server_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"internal error: {type(error).__name__}"}, status_code=500)


def bind(host: str, port: int) -> socket.socket:
    """Take the port, before anything else is started.

    Raises:
        ConfigError: it is in use, or the address is not ours; says what to do.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"edge.host = {host!r}: {error.strerror}; choose another with --host") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    try:
        listener.bind(address)
        # Two listeners can bind the same port; only the second one's listen() fails.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is in use; choose another with --port") from error
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}; choose others with --host and --port") from error
    listener.setblocking(False)
    return listener


class Server(uvicorn.Server):
    """Uvicorn for a process that handles its own signals and runs its own loop: ``serve(sockets=[listener])``."""

    def __init__(self, app: Starlette, settings: config.Edge) -> None:
        ping_s = settings.ping_interval_ms / 1_000
        super().__init__(
            uvicorn.Config(
                app,
                loop="none",
                proxy_headers=False,
                ws=websocket.AbortableWebSocket,
                ws_max_size=FAR_OVER * settings.max_message_bytes,
                ws_ping_interval=ping_s,
                ws_ping_timeout=ping_s,
                # Audio hardly gets smaller, and deflating it costs more CPU than all the rest here.
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
