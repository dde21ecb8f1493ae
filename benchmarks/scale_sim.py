"""A cluster of 1,000 nodes and 100,000 sessions through a simulated day, decided by the code that decides in the scheduler.

Placement, admission and scaling are those of ``rtvi_actors/scheduler``; nodes, engines, stage groups and clients are simulated
(simpy). Load has two peaks a day. Nodes are added with a delay and taken away when nothing is left on them; what is scaled down is
drained first; nodes fail at random. The machine's time is measured inside the decisions only.

    python benchmarks/scale_sim.py
    python benchmarks/scale_sim.py --nodes 100 --sessions 10000 --hours 12 --failures-per-day 50
"""

from __future__ import annotations

import argparse
import math
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import simpy
from record import RESULTS, append, machine, percentile
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rtvi_actors.config import Scheduler
from rtvi_actors.errors import CapacityError, PlacementError
from rtvi_actors.scheduler.admission import Admissions
from rtvi_actors.scheduler.placement import GB, Device, EngineNeed, Node, Placement
from rtvi_actors.scheduler.scaling import Limits, Load, Scaling

PLOT = "scale_sim.svg"
HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S

SESSION_S = 1_800.0
"""Mean length of a session; exponential."""
RETRIES = 3
"""How often a refused client asks again."""

SESSIONS_PER_GROUP = 25
GROUPS_PER_NODE = 5
NODE_CPUS = 8
GROUP_CPUS = NODE_CPUS / GROUPS_PER_NODE
PLACES_PER_NODE = SESSIONS_PER_GROUP * GROUPS_PER_NODE
ENGINES = {"stt": (0.15, 3 * GB), "llm": (0.4, 10 * GB), "tts": (0.2, 4 * GB)}
"""Kind -> share of a device and memory. One of each fits on a node's device of 24 GB."""
SESSIONS_PER_ENGINE = PLACES_PER_NODE
BATCH_MS = 30.0
"""What a run of a model takes: requests wait for it the longer, the fuller the engines are."""

CONTROL_S = 10.0
SAMPLE_S = 60.0
GROUP_START_S = 5.0
ENGINE_START_S = 20.0
NODE_START_S = 120.0
NODE_IDLE_S = 300.0
ENGINE_DRAIN_S = 60.0
GROUP_DRAIN_S = 600.0
"""Longest drain of a group; who is left then is moved to another one."""
PENDING_S = 600.0
"""What has had no node for so long is given up; the load decides anew."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What is simulated. ``nodes``: at most so many. ``sessions``: at the higher peak."""

    nodes: int = 1_000
    sessions: int = 100_000
    hours: float = 24.0
    seed: int = 1
    failures_per_day: float = 20.0


def demand(at_s: float) -> float:
    """Share of the peak load: 0.15 at night, 1 at eleven, 0.85 at eight in the evening."""
    hour = at_s % DAY_S / HOUR_S
    peaks = ((11.0, 2.4, 0.85), (20.0, 2.0, 0.70))
    return 0.15 + max(height * math.exp(-(((hour - middle) / width) ** 2) / 2) for middle, width, height in peaks)


@dataclass
class Stopwatch:
    """The machine's time inside decisions."""

    decisions: int = 0
    total_ns: int = 0
    admissions_ns: array[int] = field(default_factory=lambda: array("q"))

    def timed(self, decide: Callable[[], T]) -> T:
        """What ``decide`` answers."""
        began_ns = time.perf_counter_ns()
        try:
            return decide()
        finally:
            self.total_ns += time.perf_counter_ns() - began_ns
            self.decisions += 1


class Cluster:
    """The simulated cluster, and the scheduler's pure cores that run it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.env = simpy.Environment()
        self.chance = random.Random(options.seed)
        self.watch = Stopwatch()
        places = options.nodes * PLACES_PER_NODE
        self.admissions = Admissions(Scheduler(sessions_per_group=SESSIONS_PER_GROUP, warm_groups=1, max_sessions=places))
        self.placement = Placement()
        self.scaling = {kind: Scaling(Limits(1, options.nodes)) for kind in ENGINES}
        self.scaling["group"] = Scaling(Limits(GROUPS_PER_NODE, GROUPS_PER_NODE * options.nodes))
        self.counts: Counter[str] = Counter()
        """What happened, by name."""
        self.samples: list[dict[str, float]] = []
        self._numbers: Counter[str] = Counter()
        self._states: dict[str, tuple[str, str]] = {}
        """Name of an engine or group -> its kind, and waiting, starting, up or draining."""
        self._of_kind: Counter[tuple[str, str]] = Counter()
        self._groups_waiting: deque[str] = deque()
        self._waiting_since_s: dict[str, float] = {}
        self._nodes: dict[str, int] = {}
        """Node -> its number: the higher, the later it joined."""
        self._nodes_coming = 0
        self._idle_since_s: dict[str, float] = {}
        self._edges: list[str] | None = None
        """Nodes whose edge may admit somebody; None: to be looked for anew."""
        self._room_changed = False

    def run(self, on_hour: Callable[[float], None]) -> None:
        """Simulate; ``on_hour`` is told the simulated hours now and then."""
        for _ in range(min(self.options.nodes, math.ceil(2 * demand(0) * self.options.sessions / PLACES_PER_NODE))):
            self._node_joins()
        for process in (self._arrivals(), self._control(), self._failures(), self._sampling(on_hour)):
            self.env.process(process)
        self.env.run(until=self.options.hours * HOUR_S)

    # ------------------------------------------------------------------------------------------------------- sessions

    def _arrivals(self) -> Iterator[Any]:
        per_s = self.options.sessions / SESSION_S
        while True:
            yield self.env.timeout(self.chance.expovariate(per_s * demand(self.env.now)))
            self._connect(RETRIES)

    def _connect(self, retries: int, _: Any = None) -> None:
        """A client asks for a place; refused, it asks again when it was told to, or gives up."""
        self._numbers["session"] += 1
        session = f"s{self._numbers['session']}"
        try:
            self._admit(session)
        except CapacityError as error:
            self.counts["refused"] += 1
            if retries:
                self._after(error.retry_after_ms / 1_000, partial(self._connect, retries - 1))
            else:
                self.counts["turned_away"] += 1
        else:
            self.counts["admitted"] += 1
            self._after(self.chance.expovariate(1 / SESSION_S), partial(self._ends, session))

    def _admit(self, session: str) -> None:
        """At the emptier one of two edges, as a load balancer chooses."""
        if self._edges is None:
            up = [name for name, state in self._states.items() if state == ("group", "up")]
            self._edges = list(dict.fromkeys(self._node_of(name) for name in up)) or ["none"]
        free = self.admissions.free_places
        edge = max(self.chance.choice(self._edges), self.chance.choice(self._edges), key=free)
        began_ns = time.perf_counter_ns()
        try:
            self.admissions.admit(session, edge, int(self.env.now * 1_000))
        finally:
            took_ns = time.perf_counter_ns() - began_ns
            self.watch.admissions_ns.append(took_ns)
            self.watch.total_ns += took_ns
            self.watch.decisions += 1

    def _ends(self, session: str, _: Any = None) -> None:
        retired = self.watch.timed(lambda: self.admissions.release(session, clean=True))
        if retired is not None:
            self._group_ends(retired)

    # -------------------------------------------------------------------------------------------------------- control

    def _control(self) -> Iterator[Any]:
        while True:
            self._scale()
            self._place_waiting()
            self._ask_for_nodes()
            self._end_idle_nodes()
            yield self.env.timeout(CONTROL_S)

    def _scale(self) -> None:
        for kind, scaling in self.scaling.items():
            load = self._load(kind)
            decision = self.watch.timed(partial(scaling.decide, load, int(self.env.now * 1_000)))
            for _ in range(decision):
                self._numbers[kind] += 1
                self._start(f"{kind}/{self._numbers[kind]}", kind)
            if decision < 0:
                self._drain(kind, -decision)

    def _load(self, kind: str) -> Load:
        up, draining = self._of_kind[kind, "up"], self._of_kind[kind, "draining"]
        starting = self._of_kind[kind, "starting"] + self._of_kind[kind, "waiting"]
        if kind == "group":
            free = self.admissions.free_places()
            return Load(up, starting, draining, 1 - free / (up * SESSIONS_PER_GROUP) if up else 0.0)
        busy = min(1.0, self.admissions.taken / (up * SESSIONS_PER_ENGINE)) if up else float(self.admissions.taken > 0)
        return Load(up, starting, draining, busy, 3 * BATCH_MS * busy / (2 * max(0.01, 1 - busy)))

    def _drain(self, kind: str, count: int) -> None:
        """On the nodes that joined last, so that these have nothing left."""
        up = [name for name, state in self._states.items() if state == (kind, "up")]
        for name in sorted(up, key=lambda name: self._nodes[self._node_of(name)])[-count:]:
            self._is(name, kind, "draining")
            if kind != "group":
                self._after(ENGINE_DRAIN_S, partial(self._engine_ends, name))
            elif self.watch.timed(partial(self.admissions.group_draining, name)) is not None:
                self._group_ends(name)
            else:
                self._after(GROUP_DRAIN_S, partial(self._move_sessions, name))

    # ------------------------------------------------------------------------------------------------- engines, groups

    def _start(self, name: str, kind: str) -> bool:
        """Place it and start it; without a node it waits for one. Returns whether it has one."""
        try:
            if kind == "group":
                self.watch.timed(lambda: self.placement.place_group(name, None, cpus=GROUP_CPUS))
            else:
                num_gpus, memory_bytes = ENGINES[kind]
                need = EngineNeed(name, kind, num_gpus, memory_bytes, replica=int(name.partition("/")[2]))
                self.watch.timed(lambda: self.placement.place_engine(need))
        except PlacementError:
            if name not in self._waiting_since_s:
                self._waiting_since_s[name] = self.env.now
                if kind == "group":
                    self._groups_waiting.append(name)
            self._is(name, kind, "waiting")
            return False
        self._waiting_since_s.pop(name, None)
        self._is(name, kind, "starting")
        if kind == "group":
            self.admissions.group_starting(name)
        # Its node may fail meanwhile, and it may be started again elsewhere.
        node = self._node_of(name)
        self._after(GROUP_START_S if kind == "group" else ENGINE_START_S, partial(self._is_up, name, kind, node))
        return True

    def _is_up(self, name: str, kind: str, node: str, _: Any = None) -> None:
        placed = self.placement.placed(name)
        if self._states.get(name) != (kind, "starting") or placed is None or placed.node != node:
            return
        self._is(name, kind, "up")
        if kind == "group":
            self.admissions.group_ready(name, {node})

    def _place_waiting(self) -> None:
        """Where room came about: all that wait, until one of a kind has no place. What waits for too long is given up."""
        for name in [name for name, since_s in self._waiting_since_s.items() if self.env.now - since_s > PENDING_S]:
            self._is_gone(name)
            self.counts["given_up"] += 1
        if not self._room_changed:
            return
        self._room_changed = False
        failed: set[str] = set()
        for need in self.placement.pending:
            if need.kind not in failed and not self._start(need.name, need.kind):
                failed.add(need.kind)
        while self._groups_waiting and self._start(self._groups_waiting[0], "group"):
            self._groups_waiting.popleft()

    def _engine_ends(self, name: str, _: Any = None) -> None:
        if name in self._states:
            self._is_gone(name)

    def _group_ends(self, name: str) -> None:
        self.admissions.group_gone(name)
        self._is_gone(name)

    def _move_sessions(self, name: str, _: Any = None) -> None:
        """The drain of a group is over: its last sessions go on in others."""
        if name not in self._states:
            return
        left = self.admissions.group_gone(name)
        self._is_gone(name)
        for session in left:
            try:
                self._admit(session)
                self.counts["moved"] += 1
            except CapacityError:
                self.counts["lost_by_moves"] += 1

    # ---------------------------------------------------------------------------------------------------------- nodes

    def _ask_for_nodes(self) -> None:
        engines = Counter(need.kind for need in self.placement.pending)
        wanted = max(math.ceil(len(self._groups_waiting) / GROUPS_PER_NODE), *(engines[kind] for kind in ENGINES))
        room = self.options.nodes - len(self._nodes) - self._nodes_coming
        for _ in range(min(room, wanted - self._nodes_coming)):
            self._nodes_coming += 1
            self._after(NODE_START_S, self._asked_node_joins)

    def _asked_node_joins(self, _: Any = None) -> None:
        self._nodes_coming -= 1
        self._node_joins()

    def _node_joins(self) -> None:
        self._numbers["node"] += 1
        number = self._numbers["node"]
        name = f"n{number}"
        self._nodes[name] = number
        self.watch.timed(lambda: self.placement.node_joined(node(name)))
        self._room_changed = True

    def _end_idle_nodes(self) -> None:
        for name in [name for name in self._nodes if not self.placement.names_on(name)]:
            since_s = self._idle_since_s.setdefault(name, self.env.now)
            if self.env.now - since_s >= NODE_IDLE_S and len(self._nodes) > 1:
                self.placement.node_draining(name)
                self._node_ends(name)
                self.counts["nodes_ended"] += 1
        for name in [name for name in self._idle_since_s if self.placement.names_on(name)]:
            del self._idle_since_s[name]

    def _node_ends(self, name: str) -> list[str]:
        del self._nodes[name]
        self._idle_since_s.pop(name, None)
        self.admissions.edge_gone(name)
        return self.watch.timed(lambda: self.placement.node_gone(name))

    def _failures(self) -> Iterator[Any]:
        while self.options.failures_per_day > 0:
            yield self.env.timeout(self.chance.expovariate(self.options.failures_per_day / DAY_S))
            if len(self._nodes) > 1:
                self._node_fails(self.chance.choice(list(self._nodes)))

    def _node_fails(self, failed: str) -> None:
        """Its sessions are lost, and their clients come back. Its engines are started elsewhere, its groups if they are wanted."""
        self.counts["failures"] += 1
        self._edges = None
        lost = 0
        for name in self._node_ends(failed):
            kind, state = self._states[name]
            if kind == "group":
                lost += len(self.admissions.group_gone(name))
                self._is_gone(name)
            elif state == "draining":
                self._is_gone(name)
            else:
                self._is(name, kind, "waiting")
                self._waiting_since_s[name] = self.env.now
        self._room_changed = True
        self.counts["lost"] += lost
        for _ in range(lost):
            self._connect(RETRIES)

    # ------------------------------------------------------------------------------------------------------ the books

    def _node_of(self, name: str) -> str:
        placed = self.placement.placed(name)
        assert placed is not None
        return placed.node

    def _is(self, name: str, kind: str, state: str) -> None:
        if name in self._states:
            self._of_kind[self._states[name]] -= 1
        self._states[name] = (kind, state)
        self._of_kind[kind, state] += 1
        if kind == "group":
            self._edges = None

    def _is_gone(self, name: str) -> None:
        kind, state = self._states.pop(name)
        self._of_kind[kind, state] -= 1
        if self._waiting_since_s.pop(name, None) is not None and kind == "group":
            self._groups_waiting.remove(name)
        self.watch.timed(lambda: self.placement.forget(name))
        self._room_changed = True
        if kind == "group":
            self._edges = None

    def _after(self, seconds: float, then: Callable[[Any], None]) -> None:
        self.env.timeout(seconds).callbacks.append(then)

    def _sampling(self, on_hour: Callable[[float], None]) -> Iterator[Any]:
        while True:
            yield self.env.timeout(SAMPLE_S)
            sample = {
                "hour": self.env.now / HOUR_S,
                "sessions": self.admissions.taken,
                "places": self._of_kind["group", "up"] * SESSIONS_PER_GROUP,
                "nodes": len(self._nodes),
            }
            self.samples.append(sample)
            on_hour(sample["hour"])


def node(name: str) -> Node:
    """One like all others."""
    return Node(name, f"{name}.cluster", NODE_CPUS, 64 * GB, (Device(0, 24 * GB),))


def placement_s(engines: int, nodes: int) -> float:
    """Wall time of placing so many engines, of all kinds in turn, on so many nodes; nodes' joining included."""
    began = time.perf_counter()
    placement = Placement(node(f"n{number}") for number in range(nodes))
    for number in range(engines):
        kind = list(ENGINES)[number % len(ENGINES)]
        num_gpus, memory_bytes = ENGINES[kind]
        placement.place_engine(EngineNeed(f"{kind}/{number}", kind, num_gpus, memory_bytes, replica=number // len(ENGINES)))
    return time.perf_counter() - began


def outcome(cluster: Cluster) -> dict[str, Any]:
    """What happened in the cluster: the same for the same options."""
    samples, counts = cluster.samples, cluster.counts
    sessions = sum(sample["sessions"] for sample in samples)
    return {
        "admitted": counts["admitted"],
        "refused": counts["refused"],
        "turned_away": counts["turned_away"],
        "failures": counts["failures"],
        "lost_by_failures": counts["lost"],
        "moved_by_drains": counts["moved"],
        "lost_by_drains": counts["lost_by_moves"],
        "starts_given_up": counts["given_up"],
        "peak_sessions": max(sample["sessions"] for sample in samples),
        "nodes_least": min(sample["nodes"] for sample in samples),
        "nodes_most": max(sample["nodes"] for sample in samples),
        "places_used": round(sessions / max(1, sum(sample["places"] for sample in samples)), 3),
        "nodes_used": round(sessions / max(1, sum(sample["nodes"] for sample in samples) * PLACES_PER_NODE), 3),
        "nodes_by_hour": [sample["nodes"] for sample in samples[29::60]],
    }


def speed(watch: Stopwatch) -> dict[str, float]:
    """What the decisions took on this machine."""
    admissions_us = [took_ns / 1e3 for took_ns in watch.admissions_ns]
    return {
        "decisions": watch.decisions,
        "decisions_per_s": round(watch.decisions / (watch.total_ns / 1e9)),
        "admit_p50_us": round(percentile(admissions_us, 0.5), 1),
        "admit_p99_us": round(percentile(admissions_us, 0.99), 1),
    }


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """Sessions and places above, nodes below, over the day, as SVG: the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    hours = [sample["hour"] for sample in samples]
    with mpl.rc_context({"svg.hashsalt": "rtvi_actors", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for name in ("places", "sessions"):
            above.plot(hours, [sample[name] for sample in samples], label=name)
        above.set(ylabel="sessions", ylim=(0, None))
        above.legend()
        below.plot(hours, [sample["nodes"] for sample in samples], color="C2")
        below.set(xlabel="hour of the day", ylabel="nodes", ylim=(0, None))
        for axes in (above, below):
            axes.grid(alpha=0.3)
        figure.savefig(path, format="svg", metadata={"Date": None})


def parsed() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=Options.nodes, help="nodes at most (1000)")
    parser.add_argument("--sessions", type=int, default=Options.sessions, help="sessions at the higher peak (100000)")
    parser.add_argument("--hours", type=float, default=Options.hours, help="simulated hours from midnight (24)")
    parser.add_argument("--seed", type=int, default=Options.seed, help="seed of all chance (1)")
    parser.add_argument("--failures-per-day", type=float, default=Options.failures_per_day, help="nodes that fail (20)")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    """Run the benchmark."""
    options = parsed()
    console = Console()
    cluster = Cluster(options)
    began = time.perf_counter()
    columns = (TextColumn("hour {task.completed:.1f} of {task.total:g}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        day = progress.add_task("day", total=options.hours)
        cluster.run(lambda hour: progress.update(day, completed=hour))
    wall_s = round(time.perf_counter() - began, 1)
    placing_s = round(min(placement_s(1_000, 1_000) for _ in range(3)), 3)
    figures = outcome(cluster) | speed(cluster.watch) | {"placement_1000_on_1000_s": placing_s, "wall_s": wall_s}
    table = Table("", "", title=f"{options.sessions} sessions on up to {options.nodes} nodes, {options.hours:g} h; {machine()}")
    for key, value in figures.items():
        table.add_row(key.replace("_", " "), " ".join(map(str, value)) if isinstance(value, list) else f"{value:,}")
    console.print(table)
    path = append("scale_sim", {**vars(options), "session_s": SESSION_S, **figures})
    draw(cluster.samples, RESULTS / PLOT)
    console.print(f"appended to {path.relative_to(RESULTS.parents[1])}, drawn as {PLOT} beside it", style="dim")


if __name__ == "__main__":
    main()
