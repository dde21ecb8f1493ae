"""``POST /start``: what a client says before it connects, and the address at which it connects then.

For the JavaScript client's ``startBotAndConnect``: it hands our answer to its transport as it is, and that throws for any key but
``wsUrl`` (or ``ws_url``) and ``token``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rtvi_actors.config import Config, Edge
from rtvi_actors.edge import websocket
from rtvi_actors.edge.session import Wanted
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import CapacityError
from rtvi_actors.rtvi.messages import read_json

MAX_REQUEST_BYTES = 65_536
READ_DEADLINE_S = 10.0
TRANSPORT = "websocket"
PIPECAT_KEYS = frozenset(
    {"transport", "enableDefaultIceServers", "createDailyRoom", "dailyRoomProperties", "dailyMeetingTokenProperties"}
)
"""What Pipecat's own start endpoint understands beside ``body``: none of the application's data."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def routes(sessions: Sessions, config: Config) -> list[BaseRoute]:
    """``POST /start``, and ``POST /connect`` for older clients, which read ``ws_url``."""

    def door(path: str, key: str) -> Route:
        async def start(request: Request) -> Response:
            return await _start(request, key, sessions, config)

        return Route(path, start, methods=["POST"])

    return [door("/start", "wsUrl"), door("/connect", "ws_url")]


async def _start(request: Request, key: str, sessions: Sessions, config: Config) -> Response:
    try:
        data = await _read(request)
    except TimeoutError:
        return _refuse(408, f"the request did not come within {READ_DEADLINE_S:.0f} s")
    except ClientDisconnect:
        return _refuse(400, "the request broke off")
    if data is None:
        return _refuse(413, f"the request is too large: at most {MAX_REQUEST_BYTES} bytes are allowed")
    try:
        address = websocket_url(config.edge, request.url.scheme, request.headers)
        token, other = await sessions.reserve_anywhere(parse(data, config.bots, config.edge.max_json_depth))
    except ValueError as problem:
        return _refuse(400, str(problem))
    except CapacityError as refusal:
        return websocket.refused(refusal)
    if other:
        address = f"ws{other.removeprefix('http')}/ws"
    return JSONResponse({key: f"{address}?token={token}"}, headers={"Cache-Control": "no-store"})


def _refuse(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status_code=status)


async def _read(request: Request) -> bytes | None:
    """The request's body; None when it is too large."""
    data = b""
    async with asyncio.timeout(READ_DEADLINE_S):
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_REQUEST_BYTES:
                return None
    return data


def parse(data: bytes, bots: Mapping[str, str], max_depth: int) -> Wanted:
    """What the session shall be opened with. No data at all is a request without wishes.

    The bot's data are the request's ``body``; without one, all its keys that mean nothing here or to Pipecat.

    Raises:
        ValueError: it is no JSON object, or wants something that there is not. The text is for the client.
    """
    request = read_json(data, max_depth) if data.strip() else {}
    if not isinstance(request, dict):
        raise ValueError("the request must be a JSON object")
    transport = request.get("transport")
    if transport not in (None, TRANSPORT):
        raise ValueError(f"transport {_shown(transport)} is not served here; there is: {TRANSPORT}")
    name = request.get("bot")
    if name is not None and (not isinstance(name, str) or name not in bots):
        raise ValueError(f"there is no bot {_shown(name)}; there are: {', '.join(sorted(bots)) or 'none to choose from'}")
    body = request.get("body", {key: value for key, value in request.items() if key not in PIPECAT_KEYS | {"bot"}})
    if not isinstance(body, dict | None):
        raise ValueError("body must be a JSON object")
    return Wanted(bots[name] if name is not None else "", json.dumps(body).encode() if body else b"")


def _shown(value: Any) -> str:
    return repr(value)[:64]


def websocket_url(settings: Edge, scheme: str, headers: Mapping[str, str]) -> str:
    """Where the client that sent ``headers`` over ``scheme`` finds our WebSocket: the configured place, else the way it came.

    Raises:
        ValueError: it did not say which host it wanted.
    """
    if settings.public_url:
        return f"ws{settings.public_url.removeprefix('http').rstrip('/')}/ws"
    host = headers.get("host", "")
    if settings.trust_forwarded:
        # A chain of proxies appends; the first one is the one that the client met.
        scheme = headers.get("x-forwarded-proto", scheme).split(",")[0].strip().lower()
        host = headers.get("x-forwarded-host", host).split(",")[0].strip()
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"the host {_shown(host)} is none")
    return f"{'wss' if scheme in ('https', 'wss') else 'ws'}://{host}/ws"
