"""The words of turns that the user had ended, and that were cancelled before their final came. Pure.

What is cancelled is the answer. The words are the user's all the same: the model gets them, so the client is told them, in the
order of their turns and before anything of a later turn. The STT stage gives each turn that ended its final within a set time, ""
if need be, so nothing waits here for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtvi_actors.frames.types import Transcript
from rtvi_actors.rtvi.events import UserText

MAX_LATE = 16
"""Turns whose words are waited for. Beyond it the oldest is given up; the STT stage keeps fewer."""
MAX_SETTLED = 64
"""Turns of which it is remembered whether they had words."""


@dataclass(slots=True)
class _Late:
    attempt: int
    text: str | None
    reopens: int


class LateWords:
    """Which words are still to come or to be told, and which of the latest turns had any."""

    def __init__(self) -> None:
        self._late: dict[int, _Late] = {}
        self._had_words: dict[int, bool] = {}

    def __contains__(self, turn: int) -> bool:
        """Whether the words of ``turn`` are still to come or to be told."""
        return turn in self._late

    def keep(self, turn: int, attempt: int, text: str | None, reopens: int) -> None:
        """``turn`` ended with ``attempt`` and is cancelled. ``text``: its final, if that is there."""
        self._late[turn] = _Late(attempt, text, reopens)
        if len(self._late) > MAX_LATE:
            del self._late[min(self._late)]

    def hear(self, frame: Transcript) -> bool:
        """Take the final of a cancelled turn; says whether it was one that is waited for."""
        late = self._late.get(frame.turn)
        if late is None or late.text is not None or not frame.final or frame.attempt != late.attempt:
            return False
        late.text = frame.text
        return True

    def come_before(self, turn: int) -> bool:
        """Whether words of a turn before ``turn`` are still to come."""
        return any(late.text is None for number, late in self._late.items() if number < turn)

    def tell(self) -> list[UserText]:
        """The words that may be told now: none that come later are said before them."""
        told = []
        for number, late in sorted(self._late.items()):
            if late.text is None:
                break
            del self._late[number]
            if self.settle(number, late.text, late.reopens) and late.text.strip():
                told.append(UserText(number, late.text, final=True))
        return told

    def settle(self, turn: int, text: str, reopens: int) -> bool:
        """Whether the user's message of ``turn`` has words: ``text``, or those of the turn that it ``reopens``. Remembers it."""
        self._had_words[turn] = bool(text.strip()) or self._had_words.get(reopens, False)
        if len(self._had_words) > MAX_SETTLED:
            del self._had_words[min(self._had_words)]
        return self._had_words[turn]
