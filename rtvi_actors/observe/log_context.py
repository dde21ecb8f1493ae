"""Whose work is being done: the session and the turn that log lines carry.

Whoever hands something of a session to its code says so with :func:`about`; tasks and timers that are made inside carry it on.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from contextvars import ContextVar, Token
from typing import Any

_current: ContextVar[tuple[str, int]] = ContextVar("rtvi_actors_session_turn", default=("", 0))


class about:
    """``with about(session, turn):`` what is logged inside belongs to them. ``turn`` 0: to no turn, or to the one around it.

    A class and not a generator: it runs around every frame, and costs half a microsecond.
    """

    __slots__ = ("_token", "_value")

    def __init__(self, session: str, turn: int = 0) -> None:
        self._value = (session, turn)
        self._token: Token[tuple[str, int]] | None = None

    def __enter__(self) -> None:
        session, turn = _current.get()
        if not self._value[1] and session == self._value[0]:
            self._value = (session, turn)
        self._token = _current.set(self._value)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)


def current() -> tuple[str, int]:
    """Session and turn of the running code; ``("", 0)`` for none."""
    return _current.get()


def add_session(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: put session and turn into a log line that does not name its own."""
    session, turn = _current.get()
    if session and event.setdefault("session", session) == session and turn:
        event.setdefault("turn", turn)
    return event
