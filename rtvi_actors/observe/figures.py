"""What the processes of an app report about themselves, and the sums of it by role. Pure.

An actor answers each ping of the scheduler with a flat dict of the names below; the scheduler adds up what its actors say, and the
edge puts the sums on its metrics page. Stage actors come and go with their sessions: what they counted stays, and no name of theirs
gets out, so the number of series is that of the roles.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = float | list[float]
"""A number; of a histogram: how many values were within each bound, how many beyond the last, and their sum."""
Figures: TypeAlias = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a figure is told: its metric's name behind ``rtvi_actors_``, and what it means.

    ``how``: ``counter`` grows and is added up; ``sum`` and ``max`` are taken over the processes that run; ``histogram`` is added
    up, with upper ``bounds``. ``label``: (name, value) of a label beside the role.
    """

    how: Literal["counter", "sum", "max", "histogram"]
    metric: str
    text: str
    bounds: tuple[float, ...] = ()
    label: tuple[str, str] | None = None


WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def _outcome(outcome: str) -> Kind:
    return Kind("counter", "engine_requests", "Requests that engines have ended.", label=("outcome", outcome))


KINDS: dict[str, Kind] = {
    "processes": Kind("sum", "processes", "Actors that run."),
    "memory_bytes": Kind("sum", "process_resident_memory_bytes", "Resident memory; what processes share counts in each."),
    "cpu_s": Kind("counter", "process_cpu_seconds", "CPU time used."),
    "loop_lag_s": Kind("max", "loop_lag_seconds", "How late an event loop ran at worst in the last 2 s."),
    "stalls": Kind("counter", "loop_stalls", "How often an event loop stood still for longer than observe.lag_ms."),
    "links": Kind("sum", "links", "Links to other actors that are up."),
    "link_waiting_bytes": Kind("sum", "link_waiting_bytes", "What the links' sockets have not taken yet."),
    "link_dropped_s": Kind("counter", "link_audio_dropped_seconds", "User audio dropped since a link did not take it."),
    "links_refused": Kind("counter", "link_connections_refused", "Connections for links that were hung up on."),
    "credits_waiting": Kind("sum", "credit_waits", "Sends that wait for their receiver's credit."),
    "stage_failures": Kind("counter", "stage_failures", "Frames that a stage failed on."),
    "engine_in_flight": Kind("sum", "engine_requests_in_flight", "Requests that engines work on, or that wait for them."),
    "engine_oldest_s": Kind("max", "engine_oldest_request_seconds", "Age of the oldest of them."),
    "engine_done": _outcome("done"),
    "engine_failed": _outcome("failed"),
    "engine_cancelled": _outcome("cancelled"),
    "engine_refused": _outcome("refused"),
    "engine_compute_s": Kind("counter", "engine_compute_seconds", "Work of the models."),
    "engine_wait_s": Kind("histogram", "engine_queue_seconds", "How long a request waited for the model.", WAIT_S),
    "engine_batch": Kind("histogram", "engine_batch_size", "Requests that the model worked on at once.", SIZES),
}
"""Figure -> how it is told. Others are dropped."""


class Distribution:
    """A histogram that one process keeps. One thread adds to it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0.0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def figure(self) -> list[float]:
        """As it is reported."""
        return [*self._counts, self._sum]


batch_sizes = Distribution(SIZES)
"""Of the engine of this process. One per process: a process has one engine."""


class RoleFigures:
    """The sums by role of what actors report."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[str, Mapping[str, Value]]] = {}
        """Actor -> its role and what it said last."""
        self._counted: dict[str, Figures] = {}
        """Role -> what all its actors, also those that are gone, have counted."""

    def report(self, actor: str, role: str, figures: Mapping[str, Value]) -> None:
        """``actor`` said ``figures``. One that counts from the start again is a new process of the same name."""
        _, before = self._reports.get(actor, (role, {}))
        counted = self._counted.setdefault(role, {})
        for name, value in figures.items():
            kind = KINDS.get(name)
            if kind is not None and kind.how in ("counter", "histogram"):
                grown = _grown(value, before.get(name))
                so_far = counted.get(name)
                counted[name] = grown if so_far is None else _plus(so_far, grown)
        self._reports[actor] = (role, {name: value for name, value in figures.items() if name in KINDS})

    def keep(self, actors: set[str]) -> None:
        """Only these actors are there; what the others counted stays."""
        for actor in set(self._reports) - actors:
            del self._reports[actor]

    def by_role(self) -> dict[str, Figures]:
        """Role -> its figures."""
        result = {role: dict(figures) for role, figures in self._counted.items()}
        for role, figures in self._reports.values():
            sums = result.setdefault(role, {})
            for name, value in figures.items():
                how = KINDS[name].how
                if isinstance(value, list) or how not in ("sum", "max"):
                    continue
                so_far = sums.get(name, 0.0)
                assert not isinstance(so_far, list)
                sums[name] = so_far + value if how == "sum" else max(so_far, value)
        return result


def _grown(value: Value, before: Value | None) -> Value:
    """What was counted since ``before``."""
    if isinstance(value, list):
        if not isinstance(before, list) or len(before) != len(value) or any(b > v for b, v in zip(before, value, strict=True)):
            return value
        return [v - b for b, v in zip(before, value, strict=True)]
    return value if before is None or isinstance(before, list) or before > value else value - before


def _plus(one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [a + b for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list)
    assert not isinstance(other, list)
    return one + other
