"""How many of something there should be: replicas of one kind of engine, or stage groups. Pure: it is told the time.

Two thresholds and two windows keep it from flapping. More are started when the load was above the upper threshold for
``up_after_ms`` without a break; some are drained when it was below the lower one for ``down_after_ms``, which is much longer. Each
decision opens both windows anew. Between the thresholds nothing happens.

A decision to have fewer is one to *drain*: they are ended when nobody uses them any more, by the caller.
"""

from __future__ import annotations

import math
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


def _since(before_ms: int | None, holds: bool, now_ms: int) -> int | None:
    """Since when something holds; None while it does not."""
    if not holds:
        return None
    return now_ms if before_ms is None else before_ms
