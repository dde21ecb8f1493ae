"""Whose piece a voice computes next. Pure: told the time, no threads.

The rule, in this order:

1. Clauses that are due within ``margin_ms``, or overdue, the one that is due first before all.
2. Clauses that have no sound yet, in the order in which they were asked for: everybody's first piece before anybody's second.
3. The others, the one that is due first before all.

A clause is *due* when its audio runs out in a player that began with its first piece. A clause without sound is due ``patience_ms``
after it was asked for, so that those which are spoken already cannot hold it up for good. A clause that goes on with what its
session is saying is one of the others, due when that has been played.

Why 1 comes before 2: a first piece is short, and runs out while four others' first pieces are computed. Who waits a little longer
hears nothing odd; a gap in the middle of a word is heard.

For the same reason a clause that begins to be heard is *held* until what it has lasts for a step of everybody, its own next one
included: nothing on a voice that is alone with it, a second piece where several began at the same moment. What a step takes is
measured, so what else keeps the cores busy counts, too. Nobody is held beyond ``longest_hold_ms`` of audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

MARGIN_MS = 120
"""Longer than a step of the vocoder together with somebody else's first one, on a core of its own."""
PATIENCE_MS = 1_000
LONGEST_HOLD_MS = 1_000

_STEPS_AVERAGED = 8
"""What a step takes is the mean of about so many."""


@dataclass(slots=True)
class _Playout:
    due_ns: int
    has_sound: bool = False
    held_ns: int = 0
    """Audio that is there and not heard yet."""
    is_heard: bool = False


class PieceOrder(Generic[Item]):
    """The clauses that wait or are being spoken. Not safe for threads: its owner holds a lock."""

    def __init__(self, margin_ms: int = MARGIN_MS, patience_ms: int = PATIENCE_MS, longest_hold_ms: int = LONGEST_HOLD_MS) -> None:
        self._margin_ns = margin_ms * 1_000_000
        self._patience_ns = patience_ms * 1_000_000
        self._longest_hold_ns = longest_hold_ms * 1_000_000
        self._step_ns = 0
        self._clauses: dict[Item, _Playout] = {}
        """In the order in which they were asked for."""

    def __len__(self) -> int:
        return len(self._clauses)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._clauses)

    def add(self, clause: Item, now_ns: int, reserve_ns: int = 0) -> None:
        """``clause`` is asked for. ``reserve_ns``: so long will what was said before it go on playing."""
        goes_on = reserve_ns > 0
        self._clauses[clause] = _Playout(now_ns + (reserve_ns or self._patience_ns), has_sound=goes_on, is_heard=goes_on)

    def next(self, now_ns: int) -> Item | None:
        """The clause whose piece comes next; None if there is none. It stays where it is until :meth:`stepped`."""
        return min(self._clauses, key=lambda clause: self._rank(self._clauses[clause], now_ns), default=None)

    def stepped(self, clause: Item, audio_ns: int, begun_ns: int, now_ns: int) -> bool:
        """A piece of ``clause``, begun at ``begun_ns``, is there; what ran out before is played on from now, as a player does it.

        Returns whether the clause may be heard. Once it may, it always may.
        """
        took_ns = now_ns - begun_ns
        self._step_ns += (took_ns - self._step_ns) // _STEPS_AVERAGED if self._step_ns else took_ns
        playout = self._clauses[clause]
        if audio_ns <= 0:
            return playout.is_heard
        if playout.is_heard:
            playout.due_ns = max(playout.due_ns, now_ns) + audio_ns
            return True
        playout.has_sound = True
        playout.held_ns += audio_ns
        playout.due_ns = now_ns + playout.held_ns
        playout.is_heard = playout.held_ns >= min(len(self._clauses) * self._step_ns, self._longest_hold_ns)
        return playout.is_heard

    def remove(self, clause: Item) -> None:
        """``clause`` is over, or not wanted any more."""
        del self._clauses[clause]

    def _rank(self, playout: _Playout, now_ns: int) -> tuple[int, int]:
        pressing = playout.due_ns - now_ns <= self._margin_ns
        return 0 if pressing else 2 if playout.has_sound else 1, playout.due_ns
