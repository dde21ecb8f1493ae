"""Texts that the application wants to be said: one after the other, each in a turn that the speaking stage gives.

Lives on the stage's loop. The futures belong to the application's thread, which may cancel them at any time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from rtvi_actors.errors import SessionClosedError, SessionError

MAX_WAITING = 32
"""Texts of one session that may wait to be said. One more is refused."""


@dataclass(slots=True)
class Said:
    """One text. ``turn`` is 0 until it has one."""

    text: str
    request: str
    future: Future[None]
    whole: bool = False
    """The context keeps all of it, whatever of it is heard."""
    turn: int = 0


class Says:
    """The texts of one session. ``ask(request)`` requests a turn."""

    def __init__(self, ask: Callable[[str], None]) -> None:
        self._ask = ask
        self._numbers = itertools.count(1)
        self._waiting: deque[Said] = deque()
        self._current: Said | None = None
        self._whole: dict[int, str] = {}
        """Turn -> its text, if that is kept whole and its end was not heard of yet."""
        self._refusal = ""
        """Why no text is taken any more."""
        self._then: Callable[[], None] | None = None
        """To be called when none is left."""

    def add(self, text: str, future: Future[None], *, whole: bool = False) -> None:
        """Say ``text`` when all that came before it were said. ``future`` is done when it was said or interrupted."""
        if self._refusal:
            _fail(future, SessionClosedError(self._refusal))
        elif len(self._waiting) >= MAX_WAITING:
            _fail(future, SessionError(f"{MAX_WAITING} texts already wait to be said"))
        else:
            self._waiting.append(Said(text, f"say-{next(self._numbers)}", future, whole))
            self._next()

    def begin(self, turn: int, request: str) -> str:
        """``request`` got its ``turn``: the text to say; "" if it was withdrawn meanwhile."""
        said = self._current
        if said is None or said.request != request:
            return ""
        said.turn = turn
        if said.future.cancelled():
            return ""
        if said.whole:
            self._whole[turn] = said.text
        return said.text

    def kept_whole(self, turn: int) -> str:
        """The text of ``turn``, which is over, if all of it is kept, and else ""; once."""
        text = self._whole.get(turn, "")
        self._whole = {later: whole for later, whole in self._whole.items() if later > turn}
        return text

    def over(self, turn: int) -> None:
        """``turn`` was said, or interrupted: the next text may come."""
        if self._current is not None and self._current.turn == turn:
            said, self._current = self._current, None
            if said.future.set_running_or_notify_cancel():
                said.future.set_result(None)
            self._next()

    def finish(self, then: Callable[[], None]) -> None:
        """Take no more texts, and call ``then`` when those that wait were said. Repeated, it changes nothing."""
        if not self._refusal:
            self._refusal, self._then = "the session is ending: nothing more can be said", then
            self._next()

    def close(self) -> None:
        """The session is over: fail all that were not said."""
        self._refusal, self._then = "the session is over: nothing can be said any more", None
        left = list(self._waiting) if self._current is None else [self._current, *self._waiting]
        self._waiting.clear()
        self._current = None
        for said in left:
            _fail(said.future, SessionClosedError("the session ended before this was said"))

    def _next(self) -> None:
        while self._current is None and self._waiting:
            said = self._waiting.popleft()
            if not said.future.cancelled():
                self._current = said
                self._ask(said.request)
        if self._current is None and self._then is not None:
            then, self._then = self._then, None
            then()


def _fail(future: Future[None], error: SessionError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
