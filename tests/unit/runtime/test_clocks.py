from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.runtime.clocks import SAMPLES, PeerClock

pytestmark = pytest.mark.unit

MS = 1_000_000
WAYS = st.integers(1, 50 * MS)


def ping(clock: PeerClock, ahead_ns: int, now_ns: int, there_ns: int, held_ns: int, back_ns: int) -> None:
    """One that answers a ping of ours which arrived after ``there_ns``, and took ``back_ns`` itself; it came at ``now_ns``."""
    sent_ours_ns = now_ns - back_ns
    clock.ping(sent_ours_ns + ahead_ns, sent_ours_ns - held_ns - there_ns, held_ns, now_ns)


def test_nothing_known_is_now() -> None:
    clock = PeerClock()
    assert clock.ours_ns(12_345, 77) == 77
    assert clock.round_trip_ns is None
    clock.ping(sent_ns=5, echo_ns=0, held_ns=0, now_ns=77)
    assert clock.round_trip_ns is None


@given(st.integers(-(2**50), 2**50), WAYS, st.integers(0, 250 * MS), WAYS, st.integers(0, 100 * MS))
def test_the_error_is_at_most_half_the_round_trip(ahead_ns: int, there_ns: int, held_ns: int, back_ns: int, age_ns: int) -> None:
    clock, now_ns = PeerClock(), 2**52
    ping(clock, ahead_ns, now_ns, there_ns, held_ns, back_ns)
    assert clock.round_trip_ns == there_ns + back_ns
    found_ns = clock.ours_ns(now_ns - age_ns + ahead_ns, now_ns)
    assert abs(found_ns - (now_ns - age_ns)) <= (there_ns + back_ns) // 2 + 1
    assert found_ns <= now_ns


@given(st.lists(st.tuples(WAYS, WAYS), min_size=1, max_size=SAMPLES))
def test_the_shortest_round_trip_is_believed(ways: list[tuple[int, int]]) -> None:
    clock, now_ns = PeerClock(), 2**52
    for there_ns, back_ns in ways:
        ping(clock, 7 * MS, now_ns, there_ns, 100, back_ns)
    assert clock.round_trip_ns == min(map(sum, ways))


def test_old_samples_are_forgotten_since_clocks_drift() -> None:
    clock, now_ns = PeerClock(), 2**52
    ping(clock, 0, now_ns, 10, 0, 10)
    for _ in range(SAMPLES):
        ping(clock, 5 * MS, now_ns, 1_000, 0, 1_000)
    assert clock.ours_ns(now_ns - 1 * MS + 5 * MS, now_ns) == pytest.approx(now_ns - 1 * MS, abs=1_000)


def test_a_ping_that_was_answered_before_it_was_sent_is_not_believed() -> None:
    clock = PeerClock()
    clock.ping(sent_ns=5, echo_ns=100, held_ns=0, now_ns=77)
    assert clock.round_trip_ns is None
