"""The envelope of RTVI and the requests in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """One RTVI message. ``id`` only on replies and on what clients send; ``data`` is JSON."""

    type: str
    data: Any | None = None
    id: str | None = None


class EnvelopeError(Exception):
    """A client's message that is no RTVI message. ``reply``: what to answer; None to stay silent."""

    def __init__(self, reply: Message | None) -> None:
        super().__init__(reply)
        self.reply = reply


class RequestError(Exception):
    """A request that is refused. ``reply``: the error-response."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class ClientReady:
    """client-ready: give its message to ``handshake.ready``."""


@dataclass(frozen=True, slots=True)
class DisconnectBot:
    """disconnect-bot: say what is queued, then close."""


@dataclass(frozen=True, slots=True)
class SendText:
    """send-text."""

    content: str
    run_immediately: bool
    audio_response: bool


@dataclass(frozen=True, slots=True)
class ClientCustom:
    """client-message: the application's own."""

    t: str
    d: Any


Request: TypeAlias = ClientReady | DisconnectBot | SendText | ClientCustom


def to_json(message: Message) -> str:
    """The JSON text of ``message``."""
    return ""


def error(text: str, *, fatal: bool = False) -> Message:
    """An ``error`` event."""
    return Message("error", {"error": text, "message": text, "fatal": fatal})


def parse(text: str | bytes, *, max_depth: int) -> Message:
    """Read a client's message.

    Raises:
        EnvelopeError: it is none.
    """
    raise EnvelopeError(None)


def request_of(message: Message) -> Request:
    """What the client wants.

    Raises:
        RequestError: unknown or server-only type, or wrong data.
    """
    return ClientReady()
