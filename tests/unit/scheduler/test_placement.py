"""Where things run: no device is overfilled, replicas are spread, and what has no place is told in numbers."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtvi_actors.errors import ConfigError, PlacementError
from rtvi_actors.scheduler.placement import GB, Device, EngineNeed, Node, Placed, Placement, check, largest_first

pytestmark = pytest.mark.unit


def gpu_node(name: str, *sizes_gb: float, cpus: float = 16, memory_gb: int = 64, **more: Any) -> Node:
    devices = tuple(Device(index, int(size * GB)) for index, size in enumerate(sizes_gb))
    return Node(name, f"10.0.0.{name}", cpus, memory_gb * GB, devices, **more)


def need(name: str, num_gpus: float = 0.0, memory_gb: float = 0.0, **more: Any) -> EngineNeed:
    kind, _, number = name.partition("/")
    return EngineNeed(name, kind, num_gpus, int(memory_gb * GB), replica=int(number or 0), **more)


def shortfall(placement: Placement, wanted: EngineNeed) -> str:
    with pytest.raises(PlacementError) as refusal:
        placement.place_engine(wanted)
    assert placement.why(wanted.name) == str(refusal.value)
    return str(refusal.value)


# ----------------------------------------------------------------------------------------------------------- one placement


@pytest.mark.parametrize(
    ("num_gpus", "memory_gb", "share", "devices"),
    [
        (0.0, 4, 0.0, ()),
        (0.25, 0, 0.25, (0,)),
        (0.25, 4, 0.25, (0,)),
        (0.25, 9, 0.5, (0,)),  # 9 GB are half of what 20 GB may be filled with
        (0.0001, 18, 1.0, (0,)),
        (0.1, 1.00001, 0.1, (0,)),
        (0.01, 1, 0.0556, (0,)),  # rounded up to Ray's ten-thousandths
        (1, 0, 1.0, (0,)),
        (1, 18, 1.0, (0,)),
        (2, 36, 2.0, (0, 1)),
        (1.5, 36, 2.0, (0, 1)),
    ],
)
def test_the_share_keeps_the_bound_on_memory(num_gpus: float, memory_gb: float, share: float, devices: tuple[int, ...]) -> None:
    placed = Placement([gpu_node("1", 20, 20)]).place_engine(need("llm/0", num_gpus, memory_gb))
    assert (placed.node, placed.share, placed.devices) == ("1", share, devices)
    assert placed.device == (devices[0] if devices else None)


@pytest.mark.parametrize(
    ("nodes", "wanted", "text"),
    [
        ([gpu_node("1", 16, 16)], need("llm/0", 2, 43.2), "2 devices of 24.0 GB on one node, the cluster has 2 of 16.0 GB free"),
        ([gpu_node("1", 16), gpu_node("2", 24)], need("llm/0", 2), "2 devices on one node, the cluster has 1 of 24.0 GB free"),
        ([gpu_node("1")], need("llm/0", 1, 9), "1 device of 10.0 GB on one node, the cluster has 0 free"),
        ([gpu_node("1", 10)], need("llm/0", 0.5, 12), "0.5 of a device with 12.0 GB, the most that one has left is 1 and 9.0 GB"),
        ([gpu_node("1")], need("llm/0", 0.5), "0.5 of a device, the most that one has left is 0 and 0.0 GB"),
        ([gpu_node("1")], need("llm/0", 0, 58), "58.0 GB of memory, the most that a node has left is 57.6 GB"),
        ([gpu_node("1", draining=True)], need("llm/0"), "a node, of 0 that take anything none fits"),
        ([], need("llm/0"), "a node, of 0 that take anything none fits"),
        # Ray may take the smaller one.
        (
            [gpu_node("1", 20, 10)],
            need("llm/0", 0.5, 12),
            "0.5 of a device with 12.0 GB, the most that one has left is 1 and 9.0 GB",
        ),
        (
            [gpu_node("1", 20, labels={"zone": "a"})],
            need("llm/0", 1, labels={"zone": "b", "gpu": "l4"}),
            "a node with gpu=l4, zone=b, of 1 that take anything none fits",
        ),
    ],
)
def test_what_has_no_place_is_told_in_numbers(nodes: list[Node], wanted: EngineNeed, text: str) -> None:
    placement = Placement(nodes)
    assert shortfall(placement, wanted) == f"llm: needs {text}"
    assert placement.pending == [wanted]
    placement.node_joined(gpu_node("9", 80, 80, memory_gb=128, labels={"zone": "b", "gpu": "l4"}))
    assert placement.place_engine(wanted).node == "9"
    assert placement.pending == []


def test_what_is_taken_is_left_out_of_the_numbers() -> None:
    placement = Placement([gpu_node("1", 20, 20)])
    placement.place_engine(need("stt/0", 0.4, 9))
    assert shortfall(placement, need("llm/0", 2)).endswith("the cluster has 1 of 20.0 GB free")
    placement.place_engine(need("tts/0", 1))
    assert shortfall(placement, need("llm/0", 0.6)).endswith("the most that one has left is 0.5 and 9.0 GB")


def test_the_fullest_device_with_room_is_taken_as_ray_does() -> None:
    placement = Placement([gpu_node("1", 20, 20, 20)])
    shares = (0.5, 0.75, 0.25, 0.5, 0.25)
    assert [placement.place_engine(need(f"a{at}/0", share)).device for at, share in enumerate(shares)] == [0, 1, 1, 0, 2]


def test_repeating_a_placement_changes_nothing() -> None:
    placement = Placement([gpu_node("1", 20), gpu_node("2", 20)])
    first = placement.place_engine(need("llm/0", 0.5))
    assert placement.place_engine(need("llm/0", 0.5)) is first is placement.placed("llm/0")
    placement.node_joined(gpu_node("1", 80, 80))
    assert [len(node.devices) for node in placement.nodes] == [1, 1]
    placement.forget("llm/0")
    placement.forget("llm/0")
    assert placement.placed("llm/0") is None
    assert placement.why("llm/0") == "llm/0 was never placed"


def test_why_names_node_device_share_and_rule() -> None:
    placement = Placement([gpu_node("1", 20), gpu_node("2", 20)])
    why = "llm/0 on node 1 (10.0.0.1), device 0, 0.5 GPU: 0 other llm there, the fewest of 2 nodes with room; the emptiest"
    assert placement.place_engine(need("llm/0", 0.5)).why == placement.why("llm/0") == why
    assert placement.place_engine(need("tts/0")).why.endswith("beside its mates")


# ------------------------------------------------------------------------------------------------------ which of several nodes


def test_replicas_of_a_kind_are_spread_and_those_of_one_number_are_near() -> None:
    placement = Placement([gpu_node(str(at), 24) for at in range(3)])
    for number in range(3):
        placement.place_engine(need(f"llm/{number}", 0.5))
    where = [placement.place_engine(need(f"{kind}/{number}", 0.2)).node for number in (2, 0, 1) for kind in ("stt", "tts")]
    assert where == ["2", "2", "0", "0", "1", "1"]


def test_mates_are_left_where_being_near_would_cost_spreading_or_cores() -> None:
    placement = Placement([gpu_node(name, 24, cpus=4, labels={"name": name}) for name in "xy"])
    assert [placement.place_engine(need(name, 0.2)).node for name in ("llm/0", "stt/1", "stt/0")] == ["x", "y", "x"]
    assert placement.place_engine(need("tts/0", threads=3)).node == "y", "node x has 2 cores left"
    placement.place_engine(need("llm/7", 0.1, labels={"name": "x"}))
    assert placement.place_engine(need("tts/7")).node == "x"
    placement.place_engine(need("stt/7", 0.1, labels={"name": "x"}))
    placement.place_engine(need("tts/8", labels={"name": "x"}))
    assert placement.place_engine(need("stt/8", 0.1)).node == "y", "node x has more of them"


def test_the_least_loaded_node_takes_an_engine_on_the_cpu_however_many_threads_it_has() -> None:
    placement = Placement([gpu_node("1", cpus=2), gpu_node("2", cpus=8)])
    placement.place_engine(need("stt/0", threads=4))
    assert placement.place_engine(need("llm/5", threads=4)).node == "2"
    assert placement.place_engine(need("tts/6", threads=40)).node == "2"


def test_required_labels_hold_and_preferred_ones_are_a_fallback() -> None:
    nodes = [gpu_node("1", 20), gpu_node("2", 20, labels={"gpu": "l4"}), gpu_node("3", 20, labels={"gpu": "l4", "zone": "a"})]
    placement = Placement(nodes)
    wanted = {"labels": {"gpu": "l4"}, "preferred_labels": ({"zone": "b"}, {"zone": "a"})}
    assert [placement.place_engine(need(f"llm/{at}", 1, **wanted)).node for at in range(2)] == ["3", "2"]
    assert "gpu=l4" not in shortfall(placement, need("llm/2", 1, **wanted))


def test_a_draining_node_gets_nothing_new_and_keeps_what_it_has() -> None:
    placement = Placement([gpu_node("1", 20), gpu_node("2", 20)])
    placement.place_engine(need("llm/0", 0.5))
    placement.place_group("0", "1")
    assert placement.node_draining("1") == ["llm/0", "0"]
    assert placement.place_engine(need("stt/0", 0.1)).node == "2"
    assert placement.place_group("1", "1").node == "2"
    assert placement.names_on("1") == ["llm/0", "0"]
    placement.node_joined(gpu_node("2", draining=True))
    with pytest.raises(PlacementError, match=r"the most that one of 0 has left is 0 and 0\.0 GB"):
        placement.place_group("2", "1")
    assert placement.node_draining("3") == placement.names_on("3") == []


def test_an_edge_goes_where_clients_reach_it() -> None:
    placement = Placement([Node("a", "a", 4, 8 * GB), Node("b", "b", 4, 8 * GB, labels={"part": "edges"})])
    assert [placement.place_edge(f"e/{number}", {"part": "edges"}).node for number in range(3)] == ["b", "b", "b"]
    with pytest.raises(PlacementError, match="edge: needs a node with part=none"):
        placement.place_edge("e/3", {"part": "none"})


def edges_of(placement: Placement, count: int) -> list[Placed]:
    return [placement.place_edge(f"app/edge/{number}") for number in range(count)]


def test_edges_are_spread_and_keep_their_nodes() -> None:
    placement = Placement([gpu_node("1"), gpu_node("2")])
    assert [placed.node for placed in edges_of(placement, 3)] == ["1", "2", "1"]
    placement.node_joined(gpu_node("3"))
    assert [placed.node for placed in edges_of(placement, 4)] == ["1", "2", "1", "3"]
    assert placement.node_gone("1") == ["app/edge/0", "app/edge/2"]
    assert {wanted.name for wanted in placement.pending} == {"app/edge/0", "app/edge/2"}
    assert {placed.node for placed in edges_of(placement, 4)} == {"2", "3"}


def test_a_group_goes_to_its_edge_s_node_while_that_has_room_then_to_the_emptiest() -> None:
    placement = Placement([gpu_node("1", cpus=2), gpu_node("2", cpus=4), gpu_node("3", cpus=4)])
    placement.place_engine(need("llm/0", threads=2))
    assert [placement.place_group(str(at), "1", cpus=1).node for at in range(6)] == ["1", "1", "2", "3", "2", "3"]
    assert placement.why("0").endswith("the node of its edge")
    assert placement.place_group("0", "2") is placement.placed("0")
    assert placement.place_group("6", None, memory_bytes=50 * GB).why.endswith("the emptiest of 2 with room")
    with pytest.raises(PlacementError, match=r"needs 3 cores and 58\.0 GB on one node, the most that one of 3 has left"):
        placement.place_group("7", "1", cpus=3, memory_bytes=58 * GB)
    assert placement.pending == []


# -------------------------------------------------------------------------------------------------------------- loss, memory


def test_a_lost_node_gives_its_engines_back_to_be_placed_again() -> None:
    placement = Placement([gpu_node("1", 20), gpu_node("2", 20)])
    needs = [need("llm/0", 0.6), need("llm/1", 0.6), need("stt/0", 0.3)]
    for wanted in needs:
        placement.place_engine(wanted)
    placement.place_group("g", "1")
    assert placement.node_gone("1") == ["llm/0", "stt/0", "g"]
    assert placement.node_gone("1") == []
    assert placement.pending == [needs[0], needs[2]]
    assert placement.why("llm/0") == "llm/0 was on node 1, which is gone"
    assert placement.place_engine(needs[2]).node == "2"
    assert "the most that one has left is 0.1" in shortfall(placement, needs[0])
    placement.forget("llm/0")
    assert placement.pending == []


def test_an_engine_that_takes_more_than_it_declared_is_found() -> None:
    placement = Placement([gpu_node("1", 20, 20)])
    placement.place_engine(need("llm/0", 2, 20))
    placement.verified("llm/0", 10 * GB)
    with pytest.raises(PlacementError, match=r"^llm/0: takes 10\.5 GB of memory, declared are 10\.0 GB$"):
        placement.verified("llm/0", int(10.5 * GB))
    placement.verified("nobody", 99 * GB)


def test_an_undeclared_one_may_fill_its_device_up_to_the_bound() -> None:
    placement = Placement([gpu_node("1", 20)])
    placement.place_engine(need("llm/0", 0.5, 9))
    placement.place_engine(need("tts/0", 0.1))
    with pytest.raises(PlacementError, match=r"^tts/0: fills device 0 of node 1 with 19\.0 GB, 90 % of it are 18\.0 GB$"):
        placement.verified("tts/0", 10 * GB)
    placement.verified("tts/0", 8 * GB)
    assert shortfall(placement, need("stt/0", 0.1, 2)).endswith("the most that one has left is 0.4 and 1.0 GB")
    placement.forget("tts/0")
    placement.place_engine(need("stt/0", 0.1, 2))


def test_an_undeclared_one_on_the_cpu_may_fill_its_node_up_to_the_bound() -> None:
    placement = Placement([gpu_node("1")])
    placement.place_engine(need("llm/0"))
    with pytest.raises(PlacementError, match=r"^llm/0: fills the memory of node 1 with 58\.0 GB, 90 % of it are 57\.6 GB$"):
        placement.verified("llm/0", 58 * GB)
    placement.verified("llm/0", 50 * GB)
    assert shortfall(placement, need("tts/0", 0, 8)).endswith("the most that a node has left is 7.6 GB")


# ------------------------------------------------------------------------------------------------------------------ all at once


def test_a_check_tells_every_shortfall_at_once() -> None:
    nodes = [gpu_node("1", 16), gpu_node("2", 16)]
    needs = [need("stt/0", 0.2), *(need(f"llm/{at}", 1) for at in range(4)), need("tts/0", 0, 99)]
    with pytest.raises(PlacementError) as refusal:
        check(needs, nodes)
    assert refusal.value.shortfalls == (
        "llm: needs 1 device on one node, the cluster has 0 of 16.0 GB free (2 times)",
        "stt: needs 0.2 of a device, the most that one has left is 0 and 0.0 GB",
        "tts: needs 99.0 GB of memory, the most that a node has left is 57.6 GB",
    )
    assert isinstance(refusal.value, ConfigError)
    assert pickle.loads(pickle.dumps(refusal.value)).shortfalls == refusal.value.shortfalls


def test_the_largest_are_placed_first() -> None:
    needs = [need("stt/0", 0.25), need("stt/1", 0.25), need("llm/0", 1)]
    assert [wanted.name for wanted in largest_first(needs)] == ["llm/0", "stt/0", "stt/1"]
    assert len(check(needs, [gpu_node("1", 24), gpu_node("2", 24)])) == 3


needs_strategy = st.builds(
    lambda kind, number, num_gpus, memory_gb, labels: need(f"{kind}/{number}", num_gpus, memory_gb, labels=labels),
    st.sampled_from(["stt", "llm", "tts"]),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.1, 0.3333, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 1.0, 3.7, 9.1, 14.4]),
    st.sampled_from([{}, {"zone": "a"}]),
)
nodes_strategy = st.builds(
    lambda name, sizes, cpus, zone: gpu_node(name, *sizes, cpus=cpus, labels={"zone": zone}),
    st.sampled_from("12345"),
    st.lists(st.sampled_from([16, 20.3, 24]), max_size=3),
    st.sampled_from([0, 2, 16]),
    st.sampled_from("ab"),
)


class Cluster(RuleBasedStateMachine):
    """Any order of joins, losses and placements; counted beside, from what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement()
        self.nodes: dict[str, Node] = {}
        self.draining: set[str] = set()
        self.needs: dict[str, EngineNeed] = {}
        self.groups: set[str] = set()

    @rule(node=nodes_strategy)
    def join(self, node: Node) -> None:
        self.placement.node_joined(node)
        self.nodes.setdefault(node.id, node)

    @rule(name=st.sampled_from("12345"))
    def lose(self, name: str) -> None:
        there = self.placement.names_on(name)
        assert self.placement.node_gone(name) == there
        self.nodes.pop(name, None)
        self.draining.discard(name)
        self.groups -= set(there)
        assert {wanted.name for wanted in self.placement.pending} >= set(there) & set(self.needs)

    @rule(name=st.sampled_from("12345"))
    def drain(self, name: str) -> None:
        self.placement.node_draining(name)
        self.draining |= {name} & set(self.nodes)

    @rule(wanted=needs_strategy)
    def place(self, wanted: EngineNeed) -> None:
        wanted = self.needs.setdefault(wanted.name, wanted)
        new = self.placement.placed(wanted.name) is None
        try:
            placed = self.placement.place_engine(wanted)
        except PlacementError:
            assert wanted in self.placement.pending
        else:
            node = self.nodes[placed.node]
            assert wanted.labels.items() <= node.labels.items()
            assert not new or node.id not in self.draining

    @rule(name=st.sampled_from("ghij"), edge_node=st.sampled_from("12345"))
    def place_group(self, name: str, edge_node: str) -> None:
        try:
            placed = self.placement.place_group(name, edge_node, cpus=1.0)
        except PlacementError:
            assert all(self.groups_on(node) + 1 > self.nodes[node].cpus for node in set(self.nodes) - self.draining)
        else:
            assert name in self.groups or placed.node not in self.draining
            self.groups.add(name)

    @rule()
    def place_again(self) -> None:
        for wanted in self.placement.pending:
            self.place(wanted)

    @rule(name=st.sampled_from(["stt/0", "llm/1", "tts/2", "llm/3", "g", "h"]))
    def forget(self, name: str) -> None:
        self.placement.forget(name)
        self.needs.pop(name, None)
        self.groups.discard(name)

    def groups_on(self, node: str) -> int:
        return sum(1 for name in self.groups if (placed := self.placement.placed(name)) and placed.node == node)

    @invariant()
    def nothing_is_overfilled(self) -> None:
        shares: Counter[tuple[str, int]] = Counter()
        memory: Counter[tuple[str, int]] = Counter()
        for name, wanted in self.needs.items():
            placed = self.placement.placed(name)
            for device in placed.devices if placed else ():
                assert placed is not None
                shares[placed.node, device] += round(placed.share / len(placed.devices) * 10_000)
                memory[placed.node, device] += -(-wanted.memory_bytes // len(placed.devices))
        assert all(share <= 10_000 for share in shares.values())
        assert all(taken <= 0.9 * self.nodes[node].devices[device].memory_bytes for (node, device), taken in memory.items())
        assert all(self.groups_on(node.id) <= node.cpus for node in self.nodes.values())

    @invariant()
    def nobody_is_forgotten(self) -> None:
        pending = {wanted.name for wanted in self.placement.pending}
        for name in self.needs:
            assert (self.placement.placed(name) is None) == (name in pending), name


TestCluster = Cluster.TestCase
TestCluster.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from([0.0, 0.01]))
def test_on_nodes_alike_no_one_has_two_more_than_another(nodes: int, replicas: int, num_gpus: float) -> None:
    placement = Placement([gpu_node(str(at), 24, 24) for at in range(nodes)])
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(replicas):
        for kind in ("stt", "llm", "tts"):
            counts[kind, placement.place_engine(need(f"{kind}/{number}", num_gpus)).node] += 1
    for kind in ("stt", "llm", "tts"):
        each = [counts[kind, str(at)] for at in range(nodes)]
        assert max(each) - min(each) <= 1


@given(st.integers(2, 6), st.integers(1, 20), st.randoms(use_true_random=False))
def test_after_a_loss_all_are_placed_again_where_there_is_room(nodes: int, replicas: int, chance: random.Random) -> None:
    placement = Placement([gpu_node(str(at), 24) for at in range(nodes)])
    needs = [need(f"llm/{number}", 0.01, 0.1) for number in range(replicas)]
    for wanted in needs:
        placement.place_engine(wanted)
    lost = placement.node_gone(str(chance.randrange(nodes)))
    assert [wanted.name for wanted in placement.pending] == lost
    for wanted in placement.pending:
        placement.place_engine(wanted)
    assert placement.pending == []
    assert sum(len(placement.names_on(node.id)) for node in placement.nodes) == replicas


def test_the_work_grows_with_nodes_and_engines_and_not_with_their_product(lines_run: Callable[[Callable[[], Any]], int]) -> None:
    def work(size: int) -> int:
        placement = Placement()

        def run() -> None:
            for at in range(size):
                placement.node_joined(gpu_node(str(at), 24, 24))
            for at in range(size):
                placement.place_engine(need(f"{('stt', 'llm', 'tts')[at % 3]}/{at // 3}", (0.2, 1, 0)[at % 3], 3))
                placement.place_group(f"g{at}", str(at % 7), cpus=4)

        return lines_run(run)

    small, large = work(50), work(400)
    assert large < 1.5 * 8 * small
