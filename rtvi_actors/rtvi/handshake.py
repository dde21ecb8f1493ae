"""client-ready and bot-ready: which version a client speaks, and what it is told."""

from __future__ import annotations

from typing import Any

from rtvi_actors.rtvi.messages import Message

Version = tuple[int, int, int]
PROTOCOL_VERSION = "2.2.0"


def ready(message: Message, about: dict[str, Any], capabilities: dict[str, bool]) -> tuple[list[Message], Version]:
    """Answer a client-ready: what to send, in order, and the client's version ((0, 0, 0) when unknown)."""
    return [], (0, 0, 0)
