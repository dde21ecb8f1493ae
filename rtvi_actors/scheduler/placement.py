"""Where engines, edges and stage groups run: the books over nodes and devices, and the rules over them. Pure.

A node's devices are filled up to 90 % of their memory and to 1.0 GPU each. The node is chosen here; which of its devices an actor
with a share of a GPU gets, Ray decides, and it counts nothing but shares. Three rules keep the bound on memory all the same:

* The share that is asked of Ray is at least ``memory / (0.9 * memory of the node's smallest device)``. Shares of a device add up to
  1.0 at most, so declared memory adds up to 90 % at most, on whichever device Ray puts them.
* Of a node with unequal devices, each counts as large as the smallest.
* The device is guessed as Ray chooses it: the fullest one that still has room, the first of several.

A change of a node costs its devices times the *shapes* in use: a shape is what engines of one configuration need, so there are
about as many as kinds of engines. Each shape has the nodes that have room for it ranked, the best first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from rtvi_actors.errors import PlacementError
from rtvi_actors.scheduler.ranking import Ranking

GB = 10**9

SHARE_UNITS = 10_000
"""Ray counts shares of a device in ten-thousandths."""
MILLI = 1_000
"""Cores are counted in thousandths, so that sums come back to zero."""

EDGE_KIND = "edge"
GROUP_CPUS = 0.07
"""Cores that the four stage actors of one session take, without any model."""
GROUP_MEMORY_BYTES = 340 * 2**20
"""Memory of their own: 115 MiB for speaking, 75 for each of the others."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU of a node."""

    index: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. ``draining``: it gets nothing new."""

    id: str
    address: str
    cpus: float
    memory_bytes: int
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False


@dataclass(frozen=True, slots=True)
class EngineNeed:
    """What one replica of an engine needs."""

    name: str
    kind: str
    """stt, llm, tts: replicas of one kind are spread over nodes."""
    num_gpus: float = 0.0
    """Share of a device; 1 and more are whole devices, rounded up; 0 runs on the CPU."""
    memory_bytes: int = 0
    """Declared memory: on its device or, with several, on all of them together; of the node for an engine on the CPU. 0: not
    declared, only the share counts."""
    threads: int = 1
    """Cores that it uses: no limit, but nodes with the least load come first."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Its node must have all of them."""
    preferred_labels: tuple[Mapping[str, str], ...] = ()
    """Labels beyond those, tried in this order; where none of them has room, ``labels`` alone count."""
    replica: int | None = None
    """Replicas of other kinds with the same number are near, if that costs no spreading: it saves hops. None: nobody is."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where something runs. ``share`` is what to ask of Ray as ``num_gpus``; ``devices`` are indices, none on the CPU."""

    name: str
    node: str
    devices: tuple[int, ...]
    share: float
    why: str

    @property
    def device(self) -> int | None:
        """The first of its devices."""
        return self.devices[0] if self.devices else None


@dataclass(slots=True)
class Held:
    """What something takes of its node. ``slots`` are positions in the node's list of devices."""

    kind: str
    node: str
    need: EngineNeed | None
    """None for a stage group."""
    slots: tuple[int, ...] = ()
    units: int = 0
    device_bytes: int = 0
    """Of each of its devices."""
    host_bytes: int = 0
    engine_mcpus: int = 0
    group_mcpus: int = 0
    placed: Placed | None = None


class Books:
    """What one node has, and what is taken of it."""

    def __init__(self, node: Node, order: int) -> None:
        self.node = node
        self.order = order
        self.labels = frozenset(node.labels.items())
        self.device_limits = [usable(device.memory_bytes) for device in node.devices]
        self.smallest = min(self.device_limits, default=0)
        """What every device of the node may be filled with, bytes."""
        self.host_limit = usable(node.memory_bytes)
        self.mcpus = int(node.cpus * MILLI)
        self.units = [0] * len(node.devices)
        self.device_bytes = [0] * len(node.devices)
        self.host_bytes = 0
        self.engine_mcpus = 0
        self.group_mcpus = 0
        self.kinds: Counter[str] = Counter()
        self.names: dict[str, None] = {}
        """In the order in which they came."""

    def book(self, name: str, held: Held, sign: int) -> None:
        """Take what ``name`` holds (+1) or give it back (-1)."""
        for slot in held.slots:
            self.units[slot] += sign * held.units
            self.device_bytes[slot] += sign * held.device_bytes
        self.host_bytes += sign * held.host_bytes
        self.engine_mcpus += sign * held.engine_mcpus
        self.group_mcpus += sign * held.group_mcpus
        self.kinds[held.kind] += sign
        if sign > 0:
            self.names[name] = None
        else:
            del self.names[name]

    def slots_for(self, count: int, units: int, size: int) -> tuple[int, ...] | None:
        """``count`` devices with room for ``units`` and ``size`` bytes each: the fullest first, as Ray does. None: too few."""
        fitting = [
            slot
            for slot, taken in enumerate(self.units)
            if taken + units <= SHARE_UNITS and self.device_bytes[slot] + size <= self.device_limits[slot]
        ]
        if len(fitting) < count:
            return None
        return (max(fitting, key=self.units.__getitem__),) if count == 1 else tuple(fitting[:count])

    def most_left(self) -> tuple[float, int]:
        """Share and memory that its emptiest device has left for engines with a share; (0.0, 0) without devices."""
        left = [
            ((SHARE_UNITS - units) / SHARE_UNITS, min(self.smallest * (SHARE_UNITS - units) // SHARE_UNITS, limit - size))
            for units, size, limit in zip(self.units, self.device_bytes, self.device_limits, strict=True)
        ]
        return max(left, default=(0.0, 0))

    def load(self) -> float:
        """The larger one of the shares of cores and of memory that are taken; above 1 where more threads than cores run."""
        cores = (self.engine_mcpus + self.group_mcpus) / self.mcpus if self.mcpus else math.inf
        return max(cores, self.host_bytes / self.host_limit if self.host_limit else 0.0)

    def device_load(self) -> float:
        """Share of the node's devices that is taken."""
        return sum(self.units) / (SHARE_UNITS * len(self.units)) if self.units else 1.0


class Shape(Protocol):
    """What things of one kind need of a node."""

    def fit(self, books: Books) -> Held | None:
        """What such a thing would hold there; None where there is no room."""

    def key(self, books: Books) -> tuple[float, ...]:
        """The node with the smallest one is the best."""


@dataclass(frozen=True, slots=True)
class EngineShape:
    """Engines of one configuration."""

    kind: str
    num_gpus: float
    memory_bytes: int
    labels: frozenset[tuple[str, str]]

    def fit(self, books: Books) -> Held | None:
        """See :class:`Shape`."""
        if books.node.draining or not self.labels <= books.labels:
            return None
        if not self.num_gpus:
            fits = books.host_bytes + self.memory_bytes <= books.host_limit
            return Held(self.kind, books.node.id, None, host_bytes=self.memory_bytes) if fits else None
        size = ceil_div(self.memory_bytes, self.devices)
        if size > books.smallest:
            return None
        units = self.units(books.smallest)
        slots = books.slots_for(self.devices, units, size)
        return None if slots is None else Held(self.kind, books.node.id, None, slots, units, size)

    def key(self, books: Books) -> tuple[float, ...]:
        """Fewest replicas of the kind, emptiest devices for a GPU, least load."""
        fill = books.device_load() if self.num_gpus else 0.0
        return (books.kinds[self.kind], fill, books.load(), books.order)

    @property
    def devices(self) -> int:
        """How many devices a replica needs; 1 for a share of one."""
        return max(1, math.ceil(self.num_gpus))

    def units(self, limit_bytes: int) -> int:
        """Units of each device, on a node whose smallest one may hold ``limit_bytes``."""
        if self.num_gpus >= 1:
            return SHARE_UNITS
        return max(1, round(self.num_gpus * SHARE_UNITS), ceil_div(self.memory_bytes * SHARE_UNITS, limit_bytes or 1))


@dataclass(frozen=True, slots=True)
class GroupShape:
    """Stage groups: threads of engines are no limit for them, other groups' cores are."""

    mcpus: int
    memory_bytes: int

    def fit(self, books: Books) -> Held | None:
        """See :class:`Shape`."""
        fits = (
            not books.node.draining
            and books.group_mcpus + self.mcpus <= books.mcpus
            and books.host_bytes + self.memory_bytes <= books.host_limit
        )
        return Held("group", books.node.id, None, host_bytes=self.memory_bytes, group_mcpus=self.mcpus) if fits else None

    def key(self, books: Books) -> tuple[float, ...]:
        """The emptiest first."""
        return (books.load(), books.order)


class Placement:
    """The nodes, and what runs where. Names are those of the actors, and of stage groups; they must differ."""

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._books: dict[str, Books] = {}
        self._held: dict[str, Held] = {}
        self._rankings: dict[Shape, Ranking[tuple[float, ...]]] = {}
        """Shape -> the nodes with room for it, the best first."""
        self._mates: dict[int, Counter[str]] = {}
        """Number of a replica -> nodes with engines of that number."""
        self._pending: dict[str, tuple[EngineNeed, str]] = {}
        """Name -> what has no node, and why."""
        self._joined = 0
        for node in nodes:
            self.node_joined(node)

    # ---------------------------------------------------------------------------------------------------------- nodes

    def node_joined(self, node: Node) -> None:
        """``node`` is up. One that is known already changes nothing, except that it may be draining now."""
        if node.id not in self._books:
            self._joined += 1
            self._books[node.id] = Books(node, self._joined)
            self._rank(node.id)
        elif node.draining:
            self.node_draining(node.id)

    def node_gone(self, node_id: str) -> list[str]:
        """The node is dead or has ended. Returns what was there, oldest first; engines and edges of it are :attr:`pending`."""
        books = self._books.get(node_id)
        if books is None:
            return []
        names = list(books.names)
        for name in names:
            held = self._held[name]
            self._give_back(name)
            if held.need is not None:
                self._pending[name] = (held.need, f"{name} was on node {node_id}, which is gone")
        del self._books[node_id]
        for ranking in self._rankings.values():
            ranking.drop(node_id)
        return names

    def node_draining(self, node_id: str) -> list[str]:
        """The node gets nothing new. Returns what is there and has to end or to move; it stays placed until :meth:`forget`."""
        books = self._books.get(node_id)
        if books is None:
            return []
        books.node = replace(books.node, draining=True)
        self._rank(node_id)
        return list(books.names)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in the order in which they joined."""
        return [books.node for books in self._books.values()]

    def names_on(self, node_id: str) -> list[str]:
        """What is placed on a node, oldest first."""
        return list(self._books[node_id].names) if node_id in self._books else []

    # ------------------------------------------------------------------------------------------------------- placing

    def place_engine(self, need: EngineNeed) -> Placed:
        """Find a node for an engine: fewest of its kind, then its mates' node, then the emptiest. Repeating it is harmless.

        Raises:
            PlacementError: no node has room, or the labels. It is :attr:`pending` then.
        """
        if (held := self._held.get(need.name)) is not None and held.placed is not None:
            return held.placed
        shape = shape_of(need, need.labels)
        for preferred in (*need.preferred_labels, {}):
            wanted = shape_of(need, {**preferred, **need.labels}) if preferred else shape
            node_id, reason = self._best(wanted, need)
            if node_id is not None and (held := wanted.fit(self._books[node_id])) is not None:
                held.need, held.engine_mcpus = need, need.threads * MILLI
                return self._take(need.name, held, reason)
        text = engine_shortfall(shape, list(self._books.values()))
        self._pending[need.name] = (need, text)
        raise PlacementError(text)

    def place_edge(self, name: str, labels: Mapping[str, str] | None = None) -> Placed:
        """A node with ``labels`` for the edge ``name``: edges are spread like engines of one kind. One that has a node keeps it.

        Raises:
            PlacementError: there is no node that takes anything.
        """
        return self.place_engine(EngineNeed(name, EDGE_KIND, labels=labels or {}))

    def place_group(
        self, name: str, edge_node: str | None, cpus: float = GROUP_CPUS, memory_bytes: int = GROUP_MEMORY_BYTES
    ) -> Placed:
        """Find a node for a stage group: its edge's, ``edge_node``, if that has room, else the emptiest. Repeating it is harmless.

        Raises:
            PlacementError: no node has room. Nothing is kept of it.
        """
        if (held := self._held.get(name)) is not None and held.placed is not None:
            return held.placed
        shape = GroupShape(round(cpus * MILLI), memory_bytes)
        near = self._books.get(edge_node) if edge_node is not None else None
        held = None if near is None else shape.fit(near)
        reason = "the node of its edge"
        if held is None:
            ranking = self._ranking(shape)
            node_id = ranking.first()
            if node_id is None or (held := shape.fit(self._books[node_id])) is None:
                raise PlacementError(group_shortfall(shape, list(self._books.values())))
            reason = f"the emptiest of {len(ranking)} with room" + (f"; {edge_node}, its edge's, has none" if edge_node else "")
        return self._take(name, held, reason)

    def forget(self, name: str) -> None:
        """``name`` has ended, or is not wanted any more. Harmless where it is not known."""
        self._pending.pop(name, None)
        if name in self._held:
            self._give_back(name)

    def verified(self, name: str, memory_bytes: int) -> None:
        """An engine is up and takes ``memory_bytes``, of each of its devices or of the node. It counts if none was declared.

        Raises:
            PlacementError: that is more than it declared, or fills its device over 90 %. It stays placed until :meth:`forget`.
        """
        held = self._held.get(name)
        if held is None or held.need is None:
            return
        books = self._books[held.node]
        declared = held.device_bytes if held.slots else held.host_bytes
        if held.need.memory_bytes and memory_bytes > declared:
            raise PlacementError(f"{name}: takes {in_gb(memory_bytes)} of memory, declared are {in_gb(declared)}")
        for slot in held.slots:
            total = books.device_bytes[slot] - declared + max(declared, memory_bytes)
            self._check_fill(name, f"device {books.node.devices[slot].index}", held, total, books.device_limits[slot])
        if not held.slots:
            total = books.host_bytes - declared + max(declared, memory_bytes)
            self._check_fill(name, "the memory", held, total, books.host_limit)
        books.book(name, held, -1)
        if held.slots:
            held.device_bytes = max(declared, memory_bytes)
        else:
            held.host_bytes = max(declared, memory_bytes)
        books.book(name, held, +1)
        self._rank(held.node)

    # ------------------------------------------------------------------------------------------------------- asking

    def why(self, name: str) -> str:
        """Why ``name`` is where it is, or why it is nowhere: one line."""
        held = self._held.get(name)
        if held is not None and held.placed is not None:
            return held.placed.why
        return self._pending[name][1] if name in self._pending else f"{name} was never placed"

    def placed(self, name: str) -> Placed | None:
        """Where ``name`` is; None where it has no node."""
        held = self._held.get(name)
        return None if held is None else held.placed

    @property
    def pending(self) -> list[EngineNeed]:
        """Engines and edges that have no node: there was no room, or their node is gone. Place them again when one has joined."""
        return [need for need, _ in self._pending.values()]

    # ------------------------------------------------------------------------------------------------------ the books

    def _best(self, shape: EngineShape, need: EngineNeed) -> tuple[str | None, str]:
        """The best node for ``shape``, and why."""
        ranking = self._ranking(shape)
        first = ranking.first()
        if first is None:
            return None, ""
        fewest = ranking.key(first)[0]
        spread = f"{fewest:g} other {need.kind} there, the fewest of {len(ranking)} nodes with room"
        mates = self._mates.get(need.replica, Counter[str]()) if need.replica is not None else Counter[str]()
        near = [
            node_id
            for node_id in mates
            if node_id in ranking and ranking.key(node_id)[0] == fewest and self._has_cores(node_id, need.threads)
        ]
        if near:
            return min(near, key=lambda node_id: (-mates[node_id], ranking.key(node_id))), f"{spread}; beside its mates"
        return first, f"{spread}; the emptiest"

    def _has_cores(self, node_id: str, threads: int) -> bool:
        books = self._books[node_id]
        return books.engine_mcpus + books.group_mcpus + threads * MILLI <= books.mcpus

    def _take(self, name: str, held: Held, reason: str) -> Placed:
        books = self._books[held.node]
        devices = tuple(books.node.devices[slot].index for slot in held.slots)
        share = len(devices) * held.units / SHARE_UNITS
        where = f"{name} on node {held.node} ({books.node.address})"
        if devices:
            where += f", device {', '.join(map(str, devices))}, {share:g} GPU"
        placed = held.placed = Placed(name, held.node, devices, share, f"{where}: {reason}")
        self._held[name] = held
        self._pending.pop(name, None)
        books.book(name, held, +1)
        if held.need is not None and held.need.replica is not None:
            self._mates.setdefault(held.need.replica, Counter())[held.node] += 1
        self._rank(held.node)
        return placed

    def _give_back(self, name: str) -> None:
        held = self._held.pop(name)
        self._books[held.node].book(name, held, -1)
        if held.need is not None and held.need.replica is not None:
            mates = self._mates[held.need.replica]
            mates[held.node] -= 1
            if not mates[held.node]:
                del mates[held.node]
            if not mates:
                del self._mates[held.need.replica]
        self._rank(held.node)

    def _ranking(self, shape: Shape) -> Ranking[tuple[float, ...]]:
        """The nodes with room for ``shape``; made when it is asked for the first time."""
        ranking = self._rankings.get(shape)
        if ranking is None:
            ranking = self._rankings[shape] = Ranking()
            for node_id, books in self._books.items():
                if shape.fit(books) is not None:
                    ranking.put(node_id, shape.key(books))
        return ranking

    def _rank(self, node_id: str) -> None:
        """Rank a node anew for all shapes: to be called after every change of it."""
        books = self._books[node_id]
        for shape, ranking in self._rankings.items():
            if shape.fit(books) is None:
                ranking.drop(node_id)
            else:
                ranking.put(node_id, shape.key(books))

    @staticmethod
    def _check_fill(name: str, what: str, held: Held, total: int, limit: int) -> None:
        if total > limit:
            raise PlacementError(f"{name}: fills {what} of node {held.node} with {in_gb(total)}, 90 % of it are {in_gb(limit)}")


def check(needs: Iterable[EngineNeed], nodes: Iterable[Node]) -> list[Placed]:
    """Place all ``needs`` on ``nodes`` as if nothing ran there, :func:`largest_first`.

    Returns:
        where each one would be, in that order.

    Raises:
        PlacementError: the shortfalls of all that have no place; those with the same text are counted.
    """
    placement = Placement(nodes)
    found: list[Placed] = []
    shortfalls: Counter[str] = Counter()
    for need in largest_first(needs):
        try:
            found.append(placement.place_engine(need))
        except PlacementError as error:
            shortfalls[str(error)] += 1
    if shortfalls:
        raise PlacementError(*(f"{text} ({count} times)" if count > 1 else text for text, count in shortfalls.items()))
    return found


def largest_first(needs: Iterable[EngineNeed]) -> list[EngineNeed]:
    """The order in which to place engines: a small one on each device would leave no room for one that takes a whole."""
    return sorted(needs, key=lambda need: (-need.num_gpus, -need.memory_bytes))


def shape_of(need: EngineNeed, labels: Mapping[str, str]) -> EngineShape:
    """The shape of ``need`` on nodes with ``labels``."""
    return EngineShape(need.kind, need.num_gpus, need.memory_bytes, frozenset(labels.items()))


def engine_shortfall(shape: EngineShape, nodes: list[Books]) -> str:
    """What an engine needs and the nodes do not have."""
    taking = [books for books in nodes if not books.node.draining]
    matching = [books for books in taking if shape.labels <= books.labels]
    if not matching:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(shape.labels))
        return f"{shape.kind}: needs a node{labels and f' with {labels}'}, of {len(taking)} that take anything none fits"
    size = f" of {in_gb(least_size(shape.memory_bytes, shape.devices))}" if shape.memory_bytes else ""
    if not shape.num_gpus:
        free = max(books.host_limit - books.host_bytes for books in matching)
        return f"{shape.kind}: needs {in_gb(shape.memory_bytes)} of memory, the most that a node has left is {in_gb(free)}"
    if shape.num_gpus >= 1:
        best = max(matching, key=lambda books: (books.units.count(0), books.smallest))
        of = f" of {in_gb(min(device.memory_bytes for device in best.node.devices))}" if best.node.devices else ""
        plural = "s" if shape.devices > 1 else ""
        return (
            f"{shape.kind}: needs {shape.devices} device{plural}{size} on one node, the cluster has {best.units.count(0)}{of} free"
        )
    share, room = max((books.most_left() for books in matching), default=(0.0, 0))
    memory = f" with {in_gb(shape.memory_bytes)}" if shape.memory_bytes else ""
    return f"{shape.kind}: needs {shape.num_gpus:g} of a device{memory}, the most that one has left is {share:g} and {in_gb(room)}"


def group_shortfall(shape: GroupShape, nodes: list[Books]) -> str:
    """What a stage group needs and the nodes do not have."""
    taking = [books for books in nodes if not books.node.draining]
    cores = max((books.mcpus - books.group_mcpus for books in taking), default=0) / MILLI
    memory = max((books.host_limit - books.host_bytes for books in taking), default=0)
    return (
        f"stage group: needs {shape.mcpus / MILLI:g} cores and {in_gb(shape.memory_bytes)} on one node, "
        f"the most that one of {len(taking)} has left is {cores:g} and {in_gb(memory)}"
    )


def usable(memory_bytes: int) -> int:
    """90 % of a memory: what may be filled."""
    return memory_bytes * 9 // 10


def least_size(memory_bytes: int, devices: int) -> int:
    """Size of each of ``devices`` that hold ``memory_bytes`` in 90 % of theirs."""
    return ceil_div(memory_bytes * 10, devices * 9)


def ceil_div(amount: int, by: int) -> int:
    """``amount / by``, rounded up."""
    return -(-amount // by)


def in_gb(memory_bytes: int) -> str:
    """Bytes as GB (10^9), one decimal."""
    return f"{memory_bytes / GB:.1f} GB"
