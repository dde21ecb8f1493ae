from __future__ import annotations

import pytest

from rtvi_actors.scheduler.scaling import Usage

pytestmark = pytest.mark.unit

BOUNDS_S = (0.01, 0.1, 1.0)


def test_what_was_done_since_the_last_look_counts() -> None:
    usage = Usage()
    usage.count("a", 100.0, [50.0, 0.0, 0.0, 0.0], 0)
    assert usage.occupancy(["a"]) == 0.0
    assert usage.wait_p95_ms(["a"], BOUNDS_S) == 0.0
    usage.count("a", 101.0, [50.0, 19.0, 1.0, 0.0], 2_000)
    assert usage.occupancy(["a"]) == 0.5
    assert usage.wait_p95_ms(["a"], BOUNDS_S) == 100.0
    usage.count("a", 109.0, [50.0, 19.0, 1.0, 4.0], 4_000)
    assert usage.occupancy(["a"]) == 1.0
    assert usage.wait_p95_ms(["a"], BOUNDS_S) == 2_000.0


def test_replicas_are_taken_together() -> None:
    usage = Usage()
    for name, busy_s in (("a", 1.0), ("b", 0.0), ("gone", 2.0)):
        usage.count(name, 0.0, [0.0] * 4, 0)
        usage.count(name, busy_s, [1.0, 0.0, 0.0, 0.0], 1_000)
    usage.keep({"a", "b"})
    assert usage.occupancy(["a", "b"]) == 0.5
    assert usage.occupancy(["gone"]) == 0.0


def test_one_that_was_started_again_is_not_counted_from_before() -> None:
    usage = Usage()
    usage.count("a", 100.0, [5.0] * 4, 0)
    usage.count("a", 0.5, [1.0] * 4, 1_000)
    assert usage.occupancy(["a"]) == 0.0
    usage.count("a", 1.0, [1.0, 2.0, 1.0, 1.0], 2_000)
    assert usage.occupancy(["a"]) == 0.5
