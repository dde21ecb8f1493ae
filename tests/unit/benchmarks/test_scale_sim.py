"""The simulated cluster: the same for the same seed, and nothing is lost in its books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit


@pytest.fixture
def sim(program: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("simpy")
    return program("scale_sim")


def simulated(sim: ModuleType, **options: Any) -> Any:
    cluster = sim.Cluster(sim.Options(**options))
    cluster.run(lambda _: None)
    return cluster


def test_a_seed_gives_a_day(sim: ModuleType) -> None:
    options = {"nodes": 4, "sessions": 300, "hours": 12.0, "failures_per_day": 6.0}
    first, again, other = (sim.outcome(simulated(sim, **options, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first["nodes_least"] < first["nodes_most"] <= 4
    assert first["failures"] > 0
    assert 0 < first["places_used"] < 1


def test_the_books_agree_after_half_a_day(sim: ModuleType) -> None:
    cluster = simulated(sim, nodes=5, sessions=400, hours=13.0, seed=3, failures_per_day=24.0)
    placement = cluster.placement
    there = Counter(name.partition("/")[0] for joined in placement.nodes for name in placement.names_on(joined.id))
    for kind in ("stt", "llm", "tts", "group"):
        states = [state for of, state in cluster._states.values() if of == kind]
        assert there[kind] == len(states) - states.count("waiting")
        assert Counter(states) == Counter({s: n for (of, s), n in cluster._of_kind.items() if of == kind and n})
    groups = {group.name for group in cluster.admissions.groups()}
    assert groups == {name for name, (kind, state) in cluster._states.items() if kind == "group" and state != "waiting"}
    assert sum(len(group.sessions) for group in cluster.admissions.groups()) == cluster.admissions.taken


def test_too_few_nodes_refuse(sim: ModuleType) -> None:
    found = sim.outcome(simulated(sim, nodes=1, sessions=400, hours=11.0, failures_per_day=0.0))
    assert found["turned_away"] > 0
    assert found["peak_sessions"] == sim.PLACES_PER_NODE
    assert (found["failures"], found["lost_by_failures"]) == (0, 0)


def test_the_day_has_two_peaks(sim: ModuleType) -> None:
    hours = [sim.demand(hour * 3_600.0) for hour in range(24)]
    peaks = [at for at in range(1, 23) if hours[at - 1] < hours[at] > hours[at + 1]]
    assert peaks == [11, 20]
    assert max(hours) == pytest.approx(1.0)


def test_the_plot_has_the_same_bytes_for_the_same_figures(sim: ModuleType, tmp_path: Path) -> None:
    samples = [{"hour": hour, "sessions": hour, "places": 2 * hour, "nodes": 3} for hour in (0.5, 1.0)]
    for name in "ab":
        sim.draw(samples, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
