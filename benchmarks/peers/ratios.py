"""What two servers' figures under the same loads say about each other. Pure.

A row is what ``load.Load.figures`` gives: one number of sessions with its lost turns and its p50 and p95 in ms.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from load import complete, within

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Speed:
    """At one number of sessions: the peer's voice to voice latency over ours. None where either has none."""

    sessions: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Capacity:
    """At the p95 that a peer has with ``theirs`` sessions, all answered: we answer ``ours``, all of them, within the same p95.

    ``at_least``: we were not offered more, so it may be more.
    """

    p95_ms: float
    theirs: int
    ours: int
    at_least: bool

    @property
    def ratio(self) -> float:
        """Our sessions over the peer's."""
        return self.ours / self.theirs


def held(rows: list[Row], limit_ms: float) -> list[Row]:
    """The rows from the smallest number of sessions on, up to the first that is not all answered within ``limit_ms``."""
    return list(itertools.takewhile(lambda row: within(row, limit_ms), sorted(rows, key=lambda row: row["sessions"])))


def knee(rows: list[Row], limit_ms: float) -> int:
    """The largest number of sessions that are all answered within ``limit_ms``, and all smaller ones too; 0 if there is none."""
    return max((row["sessions"] for row in held(rows, limit_ms)), default=0)


def speeds(ours: list[Row], theirs: list[Row]) -> list[Speed]:
    """For each number of sessions that both were offered."""
    peers = {row["sessions"]: row for row in theirs}
    return [Speed(row["sessions"], *_over(peers[row["sessions"]], row)) for row in ours if row["sessions"] in peers]


def _over(theirs: Row, ours: Row) -> tuple[float | None, float | None]:
    p50, p95 = (round(theirs[key] / ours[key], 2) if theirs[key] and ours[key] else None for key in ("p50_ms", "p95_ms"))
    return p50, p95


def capacities(ours: list[Row], theirs: list[Row]) -> list[Capacity]:
    """For each number of sessions of which the peer answered all."""
    most = max((row["sessions"] for row in ours), default=0)
    found = []
    for row in filter(complete, theirs):
        held_by_us = knee(ours, row["p95_ms"])
        found.append(Capacity(row["p95_ms"], row["sessions"], held_by_us, held_by_us == most > 0))
    return found
