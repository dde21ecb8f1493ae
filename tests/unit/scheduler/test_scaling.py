"""How many there should be: never flapping, never out of bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.scheduler.scaling import Limits, Load, Scaling

pytestmark = pytest.mark.unit

LIMITS = Limits(least=1, most=40, up_after_ms=10_000, down_after_ms=300_000)


def held(scaling: Scaling, load: Load, for_ms: int, from_ms: int = 0, step_ms: int = 1_000) -> list[tuple[int, int]]:
    """The decisions (when, what) under a load that stays as it is."""
    asked = [(now_ms, scaling.decide(load, now_ms)) for now_ms in range(from_ms, from_ms + for_ms + 1, step_ms)]
    return [(now_ms, decision) for now_ms, decision in asked if decision]


@pytest.mark.parametrize(
    ("load", "decisions"),
    [
        (Load(4, 0, 0, 0.81), [(10_000, 1), (21_000, 1)]),
        (Load(4, 0, 0, 1.0), [(10_000, 3), (21_000, 3)]),  # 4 busy ones are 7 at 0.65
        (Load(4, 0, 0, 0.6, 201), [(10_000, 1), (21_000, 1)]),
        (Load(40, 0, 0, 1.0), []),
        (Load(38, 0, 0, 1.0), [(10_000, 2), (21_000, 2)]),
        (Load(38, 0, 1, 1.0), [(10_000, 1), (21_000, 1)]),  # the draining one still runs
        (Load(4, 1, 0, 1.0), []),
        (Load(4, 0, 0, 0.8, 200), []),
        (Load(4, 0, 0, 0.5), []),
    ],
)
def test_more_are_started_after_the_load_was_high_for_a_while(load: Load, decisions: list[tuple[int, int]]) -> None:
    assert held(Scaling(LIMITS), load, 21_000) == decisions


@pytest.mark.parametrize(
    ("load", "decisions"),
    [
        (Load(4, 0, 0, 0.1), [(300_000, -1), (601_000, -1)]),
        (Load(30, 0, 0, 0.1), [(300_000, -3), (601_000, -3)]),
        (Load(2, 0, 0, 0.45), []),  # one alone would be at 0.9
        (Load(30, 0, 0, 0.49, 50), []),
        (Load(30, 1, 0, 0.1), []),
        (Load(30, 0, 1, 0.1), []),
        (Load(1, 0, 0, 0.0), []),
    ],
)
def test_fewer_are_kept_after_the_load_was_low_for_long(load: Load, decisions: list[tuple[int, int]]) -> None:
    assert held(Scaling(LIMITS), load, 601_000) == decisions


def test_a_break_begins_the_window_anew() -> None:
    scaling = Scaling(LIMITS)
    high, fair = Load(4, 0, 0, 0.9), Load(4, 0, 0, 0.7)
    assert held(scaling, high, 9_000) == held(scaling, fair, 0, 10_000) == held(scaling, high, 9_000, 11_000) == []
    assert held(scaling, high, 0, 21_000) == [(21_000, 2)]


def test_too_few_are_filled_up_at_once_but_never_over_the_most() -> None:
    limits = Limits(least=3, most=4)
    assert Scaling(limits).decide(Load(0, 0, 0, 0.0), 0) == 3
    assert Scaling(limits).decide(Load(1, 1, 0, 0.0), 0) == 1
    assert Scaling(limits).decide(Load(1, 0, 3, 0.0), 0) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"least": 2, "most": 1},
        {"lower_occupancy": 0.9},
        {"upper_occupancy": 1.1},
        {"lower_wait_ms": 200.0},
        {"up_after_ms": 300_000},
    ],
)
def test_limits_that_would_flap_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Limits(**wrong)  # type: ignore[arg-type]


loads = st.lists(
    st.tuples(st.integers(1, 400), st.floats(0, 30), st.floats(0, 400), st.integers(0, 40)), min_size=1, max_size=60
)  # seconds it lasts, engines' worth of work, wait, seconds that a start or a drain takes


@given(loads, st.integers(0, 4), st.integers(4, 20))
def test_it_never_flaps_and_keeps_its_bounds(spans: list[tuple[int, float, float, int]], least: int, most: int) -> None:
    limits = Limits(least, most, up_after_ms=10_000, down_after_ms=60_000)
    scaling, now_ms = Scaling(limits), 0
    up, starting, draining, due_ms = least, 0, 0, 0
    last_ms: dict[bool, int] = {}
    for seconds, work, wait_ms, takes_s in spans:
        for _ in range(seconds):
            now_ms += 1_000
            if now_ms >= due_ms:
                up, starting, draining = up + starting, 0, 0
            decision = scaling.decide(Load(up, starting, draining, min(1.0, work / up) if up else float(work > 0), wait_ms), now_ms)
            if not decision:
                continue
            opposite_ms = last_ms.get(decision < 0)
            window_ms = limits.up_after_ms if decision > 0 else limits.down_after_ms
            assert opposite_ms is None or now_ms - opposite_ms >= window_ms
            assert not starting
            assert decision > 0 or not draining
            last_ms[decision > 0] = now_ms
            due_ms = now_ms + takes_s * 1_000
            if decision > 0:
                starting = decision
            else:
                up, draining = up + decision, -decision
            assert least <= up
            assert up + starting + draining <= most
