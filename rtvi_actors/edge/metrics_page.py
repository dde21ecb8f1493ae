"""``GET /metrics``: the app for Prometheus."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rtvi_actors.edge.sessions import Sessions
from rtvi_actors.errors import CapacityError
from rtvi_actors.observe.figures import Figures
from rtvi_actors.observe.metrics import CONTENT_TYPE


def routes(sessions: Sessions) -> list[Route]:
    """The page, if metrics are on."""
    metrics = sessions.observer.metrics
    if metrics is None:
        return []

    async def page(_: Request) -> Response:
        app = await _app_figures(sessions)
        text = []
        for family in metrics.pages(sessions.stats(), sessions.counts(), app):
            text.append(family)
            await asyncio.sleep(0)  # audio is due every 20 ms
        return Response(b"".join(text), headers={"Content-Type": CONTENT_TYPE})

    return [Route("/metrics", page)]


async def _app_figures(sessions: Sessions) -> dict[str, Figures] | None:
    """Role -> figures of the whole app, from the first edge only, so that they are not added up; None: no scheduler answers."""
    try:
        status = await sessions.app_status()
    except CapacityError:
        return None
    return status.get("figures", {})
