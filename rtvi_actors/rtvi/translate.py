"""The conversation as RTVI messages."""

from __future__ import annotations

from rtvi_actors.rtvi.events import Event
from rtvi_actors.rtvi.messages import Message


class Translator:
    """Translates one session's events. ``client_version`` is set at client-ready."""

    def __init__(self, client_version: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.client_version = client_version

    def handle(self, event: Event, timestamp: str) -> list[Message]:
        """The messages of ``event``, in order. ``timestamp``: ISO 8601, UTC, milliseconds, ``+00:00``."""
        return []
