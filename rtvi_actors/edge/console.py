"""The console: a web page to talk with the bot, at ``/``, and ``GET /api/status``, which its live view asks.

Node builds the page into ``console/dist`` (``make setup`` does it). Without it ``/`` says how to build it; nothing else needs it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rtvi_actors.config import Config
from rtvi_actors.edge import start, websocket
from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import CapacityError

DIST = Path(__file__).with_name("console") / "dist"

STATUS_AGE_S = 1.0
"""However many pages look: the scheduler is asked once in this time."""
SHOWN_TURNS = 10
SHOWN_NAME = 8
"""Characters of a session's name: enough to tell sessions apart, not enough to address one."""

KINDS = ("stt", "llm", "tts")

NOT_BUILT = """\
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>rtvi_actors console</title></head>
<body>
<main>
<h1>The console is not built</h1>
<p>The server runs, and clients can connect. Only this page is missing: it is built once, by Node 20 or newer. In the folder of
the sources:</p>
<pre>make console</pre>
<p>or, without make:</p>
<pre>cd rtvi_actors/edge/console
npm install --no-save
npm run build</pre>
<p>Then load this page again. The server need not be restarted.</p>
<p>Without the console: <a href="about">what is served here</a>; <code>rtvi-actors talk</code> in a terminal.</p>
</main>
</body>
</html>
"""


def routes(sessions: Sessions, config: Config) -> list[BaseRoute]:
    """The page, its assets and the status. None of them if ``edge.console`` is off."""
    if not config.edge.console:
        return []
    status = Status(sessions, config)

    async def page(request: Request) -> Response:
        index = DIST / "index.html"
        headers = _headers(request, config)
        if not await asyncio.to_thread(index.is_file):
            return HTMLResponse(NOT_BUILT, headers=headers)
        return FileResponse(index, headers=headers)

    async def show_status(_: Request) -> Response:
        try:
            facts = await status.read()
        except CapacityError as refusal:
            return websocket.refused(refusal)
        return JSONResponse(facts, headers={"Cache-Control": "no-store"})

    return [Route("/", page), Route("/assets/{name}", _asset), Route("/api/status", show_status)]


async def _asset(request: Request) -> Response:
    """A file of the page. Its name has the hash of what is in it, so it may be kept for ever."""
    file = DIST / "assets" / request.path_params["name"]
    # The route takes no slash; what remains of "..", a name that begins with a dot, is no asset.
    if file.name.startswith(".") or not await asyncio.to_thread(file.is_file):
        return JSONResponse({"detail": "Not Found"}, status_code=404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return FileResponse(file, headers=headers)


def _headers(request: Request, config: Config) -> dict[str, str]:
    """The page may load what this server has, talk with it, use the microphone, and nothing else."""
    try:
        # Not every browser takes 'self' for the WebSocket, and a public address may be another host.
        socket = start.websocket_url(config.edge, request.url.scheme, request.headers).removesuffix("/ws")
    except ValueError:
        socket = ""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": f"'self' {_origin(socket)}".rstrip(),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


def _origin(url: str) -> str:
    """``ws://host:port`` of a URL that has a path or not."""
    return "/".join(url.split("/")[:3])


class Status:
    """What the live view shows: capacity, sessions and engines, for people. No addresses, processes or texts of anybody's."""

    def __init__(self, sessions: Sessions, config: Config) -> None:
        self._sessions = sessions
        self._config = config
        self._read_at = float("-inf")
        self._app: dict[str, Any] = {}
        self._asking = asyncio.Lock()

    async def read(self) -> dict[str, Any]:
        """The state now; what the scheduler knows of it is up to a second old.

        Raises:
            CapacityError: the scheduler does not answer.
        """
        async with self._asking:
            if time.monotonic() - self._read_at >= STATUS_AGE_S:
                self._app = await self._sessions.app_status()
                self._read_at = time.monotonic()
        app = self._app
        capacity = app["capacity"]
        return {
            "app": app["app"],
            "capacity": {name: capacity[name] for name in ("sessions", "max_sessions", "free", "granted", "refused")},
            "bots": sorted(self._config.bots),
            "sessions": self._of_sessions(app["sessions"]),
            "engines": [self._of_engine(kind, app["engines"]) for kind in KINDS],
        }

    def _of_sessions(self, everywhere: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of this edge as they are; of other edges, and of clients still to connect, what the scheduler knows."""
        here = self._sessions.status()
        names = {session["session"] for session in here}
        now = time.time()
        shown = [
            {
                "session": session["session"][:SHOWN_NAME],
                "bot": session["bot"],
                "age_s": round(now - session["since"], 1),
                "turns": session["turns"],
                "latency_ms": [round(figures["total_ms"], 1) for figures in session["figures"][-SHOWN_TURNS:]],
            }
            for session in here
        ]
        for session in everywhere:
            if session["session"] not in names:
                place = {"session": session["session"][:SHOWN_NAME], "bot": "unknown", "age_s": session["age_s"]}
                shown.append({**place, "turns": None, "latency_ms": []})
        return shown

    def _of_engine(self, kind: str, engines: list[dict[str, Any]]) -> dict[str, Any]:
        settings = getattr(self._config, kind)
        replicas = [engine for engine in engines if engine["kind"] == kind]
        up = sum(engine["state"] == "up" for engine in replicas)
        return {
            "kind": kind,
            "state": "starting" if not up else "up" if up == len(replicas) else f"{up} of {len(replicas)} up",
            "backend": settings.backend,
            "model": Path(settings.model).name,
            "memory_bytes": sum(engine.get("memory_bytes", 0) for engine in replicas),
        }
