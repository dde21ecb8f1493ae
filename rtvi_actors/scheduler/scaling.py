"""How many of something there should be: replicas of one kind of engine, or stage groups. Pure: it is told the time.

Two thresholds and two windows keep it from flapping. More are started when the load was above the upper threshold for
``up_after_ms`` without a break; some are drained when it was below the lower one for ``down_after_ms``, which is much longer. Each
decision opens both windows anew. Between the thresholds nothing happens.

A decision to have fewer is one to *drain*: they are ended when nobody uses them any more, by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DRAIN_SHARE = 10
"""At most one in so many is drained at a time, but always one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds and windows of one kind."""

    least: int = 1
    most: int = 1
    upper_occupancy: float = 0.8
    lower_occupancy: float = 0.5
    upper_wait_ms: float = 200.0
    """Queue wait, p95."""
    lower_wait_ms: float = 50.0
    up_after_ms: int = 10_000
    down_after_ms: int = 300_000

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most:
            raise ValueError(f"least = {self.least} must not exceed most = {self.most}")
        if not 0 < self.lower_occupancy < self.upper_occupancy <= 1:
            raise ValueError(f"lower_occupancy = {self.lower_occupancy} must be below upper_occupancy = {self.upper_occupancy}")
        if not self.lower_wait_ms < self.upper_wait_ms:
            raise ValueError(f"lower_wait_ms = {self.lower_wait_ms} must be below upper_wait_ms = {self.upper_wait_ms}")
        if not self.up_after_ms < self.down_after_ms:
            raise ValueError(f"up_after_ms = {self.up_after_ms} must be below down_after_ms = {self.down_after_ms}")


@dataclass(frozen=True, slots=True)
class Load:
    """What there is of one kind, and how busy it is. ``up`` does not count those that are draining.

    ``occupancy`` is the busy share of those that are up, 0..1; of stage groups, the share of their places that is taken.
    ``wait_p95_ms`` is how long requests waited in a queue; 0 where nothing queues.
    """

    up: int
    starting: int
    draining: int
    occupancy: float
    wait_p95_ms: float = 0.0


class Scaling:
    """The rule for one kind."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._high_since_ms: int | None = None
        self._low_since_ms: int | None = None

    def decide(self, load: Load, now_ms: int) -> int:
        """``+n``: start n more; ``-n``: drain n; 0: leave it. To be asked every second or so.

        Fewer than ``least`` are filled up at once. Beyond that, nothing more is started while something is being started, nor is
        anything drained while something is being started or drained. Those that are draining count for ``most``: they still run.
        """
        limits = self.limits
        room = max(0, limits.most - load.up - load.starting - load.draining)
        missing = min(room, limits.least - load.up - load.starting)
        if missing > 0:
            self._open_windows()
            return missing
        self._watch(load, now_ms)
        decision = 0
        if self._high_since_ms is not None and now_ms - self._high_since_ms >= limits.up_after_ms:
            decision = min(self._more(load), room)
        elif self._low_since_ms is not None and now_ms - self._low_since_ms >= limits.down_after_ms:
            decision = -self._fewer(load)
        if decision:
            self._open_windows()
        return decision

    def _watch(self, load: Load, now_ms: int) -> None:
        """Since when the load is high, and since when low. What is being started or drained says nothing of what follows."""
        limits = self.limits
        high = load.occupancy > limits.upper_occupancy or load.wait_p95_ms > limits.upper_wait_ms
        low = load.occupancy < limits.lower_occupancy and load.wait_p95_ms < limits.lower_wait_ms
        self._high_since_ms = _since(self._high_since_ms, high and not load.starting, now_ms)
        self._low_since_ms = _since(self._low_since_ms, low and not load.starting and not load.draining, now_ms)

    def _open_windows(self) -> None:
        self._high_since_ms = self._low_since_ms = None

    def _more(self, load: Load) -> int:
        """As many as bring the occupancy to the middle between the thresholds; one where only the queue is long."""
        return max(1, math.ceil(load.up * load.occupancy / self._middle - 1e-9) - load.up)

    def _fewer(self, load: Load) -> int:
        """A tenth, but one at least, and no more than the rest carries at the middle between the thresholds."""
        spare = load.up - max(self.limits.least, math.ceil(load.up * load.occupancy / self._middle - 1e-9))
        return max(0, min(spare, max(1, load.up // DRAIN_SHARE)))

    @property
    def _middle(self) -> float:
        return (self.limits.lower_occupancy + self.limits.upper_occupancy) / 2


class Usage:
    """How busy the replicas of one kind are, from what each of them has counted since its start."""

    def __init__(self) -> None:
        self._counted: dict[str, tuple[int, float, list[float]]] = {}
        """Replica -> when, seconds of work, and its requests by how long they waited: see ``observe.figures.WAIT_S``."""
        self._busy: dict[str, float] = {}
        self._waits: dict[str, list[float]] = {}

    def count(self, name: str, compute_s: float, waits: list[float], now_ms: int) -> None:
        """``name`` has worked for ``compute_s``; ``waits``: requests up to each bound, and beyond the last."""
        before = self._counted.get(name)
        self._counted[name] = (now_ms, compute_s, waits)
        if before is None or compute_s < before[1] or now_ms <= before[0]:
            return  # it has just been started (again)
        self._busy[name] = (compute_s - before[1]) * 1_000 / (now_ms - before[0])
        self._waits[name] = [now - then for now, then in zip(waits, before[2], strict=True)]

    def keep(self, names: set[str]) -> None:
        """Only these are there."""
        for name in self._counted.keys() - names:
            del self._counted[name]
            self._busy.pop(name, None)
            self._waits.pop(name, None)

    def occupancy(self, names: Sequence[str]) -> float:
        """Busy share of ``names`` in the last interval, 0..1."""
        busy = [min(1.0, self._busy[name]) for name in names if name in self._busy]
        return sum(busy) / len(busy) if busy else 0.0

    def wait_p95_ms(self, names: Sequence[str], bounds_s: Sequence[float]) -> float:
        """Bound that 95 % of the requests of the last interval did not wait longer than; 0 without any."""
        counts = [self._waits[name] for name in names if name in self._waits]
        if not counts:
            return 0.0
        sums = [sum(column) for column in zip(*counts, strict=True)]
        total, reached = sum(sums), 0.0
        for count, bound_s in zip(sums, [*bounds_s, 2 * bounds_s[-1]], strict=True):
            reached += count
            if total and reached >= 0.95 * total:
                return bound_s * 1_000
        return 0.0


def _since(before_ms: int | None, holds: bool, now_ms: int) -> int | None:
    """Since when something holds; None while it does not."""
    if not holds:
        return None
    return now_ms if before_ms is None else before_ms
