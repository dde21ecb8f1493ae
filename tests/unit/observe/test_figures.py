"""What actors report, added up by role."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.observe.figures import KINDS, SIZES, Distribution, RoleFigures

pytestmark = pytest.mark.unit


def test_counters_survive_their_actors_and_gauges_do_not() -> None:
    roles = RoleFigures()
    roles.report("app/stt/0", "stt", {"cpu_s": 3.0, "memory_bytes": 100.0, "loop_lag_s": 0.2, "processes": 1})
    roles.report("app/stt/1", "stt", {"cpu_s": 1.0, "memory_bytes": 50.0, "loop_lag_s": 0.1, "processes": 1})
    assert roles.by_role() == {"stt": {"cpu_s": 4.0, "memory_bytes": 150.0, "loop_lag_s": 0.2, "processes": 2}}
    roles.keep({"app/stt/1"})
    roles.report("app/stt/1", "stt", {"cpu_s": 1.5, "memory_bytes": 60.0, "loop_lag_s": 0.0, "processes": 1})
    assert roles.by_role() == {"stt": {"cpu_s": 4.5, "memory_bytes": 60.0, "loop_lag_s": 0.0, "processes": 1}}
    roles.keep(set())
    assert roles.by_role() == {"stt": {"cpu_s": 4.5}}


def test_a_process_that_starts_again_under_its_name_goes_on_counting() -> None:
    roles = RoleFigures()
    for count in (5, 7, 2, 3):
        roles.report("app/engine/stt/0", "engine/stt", {"engine_done": count})
    assert roles.by_role() == {"engine/stt": {"engine_done": 10}}


def test_what_is_not_in_the_table_is_dropped() -> None:
    roles = RoleFigures()
    roles.report("a", "stt", {"sessions": 3.0})
    assert roles.by_role() == {"stt": {}}


def test_histograms_are_added_up() -> None:
    sizes = Distribution(SIZES)
    roles = RoleFigures()
    for size in (1, 1, 4, 100):
        sizes.add(size)
    roles.report("a", "engine/llm", {"engine_batch": sizes.figure()})
    sizes.add(5)
    roles.report("a", "engine/llm", {"engine_batch": sizes.figure()})
    roles.report("b", "engine/llm", {"engine_batch": sizes.figure()})
    figure = roles.by_role()["engine/llm"]["engine_batch"]
    assert isinstance(figure, list)
    assert figure == [4.0, 0, 0, 2.0, 2.0, 0, 0, 0, 0, 0, 2.0, 222.0]
    assert len(figure) == len(SIZES) + 2


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), max_size=40))
def test_nothing_counted_is_lost_or_counted_twice(steps: list[tuple[str, bool, int]]) -> None:
    """Whatever order actors count, report, end and come back in."""
    roles = RoleFigures()
    counts: dict[str, int] = {}
    total = 0
    for actor, ends, more in steps:
        counts[actor] = counts.get(actor, 0) + more
        total += more
        roles.report(actor, "stt", {"engine_done": counts[actor]})
        if ends:
            del counts[actor]
            roles.keep(set(counts))
    assert roles.by_role().get("stt", {}).get("engine_done", 0) == total


def test_metrics_that_share_a_name_differ_in_their_label() -> None:
    seen = [(kind.metric, kind.label) for kind in KINDS.values()]
    assert len(set(seen)) == len(seen)
    for kind in KINDS.values():
        assert (kind.how == "histogram") == bool(kind.bounds)
