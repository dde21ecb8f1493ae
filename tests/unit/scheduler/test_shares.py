"""Which replica a session asks first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.scheduler.shares import EngineShares

pytestmark = pytest.mark.unit

UP = {"stt": {"stt/0": True}, "llm": {"llm/0": True, "llm/1": True}}


def test_sessions_are_spread_and_all_replicas_named() -> None:
    shares = EngineShares()
    orders = [shares.take(session, UP) for session in "abc"]
    assert [order["llm"] for order in orders] == [["llm/0", "llm/1"], ["llm/1", "llm/0"], ["llm/0", "llm/1"]]
    assert [order["stt"] for order in orders] == [["stt/0"]] * 3
    shares.give_back("a")
    shares.give_back("c")
    shares.give_back("c")
    assert shares.take("d", UP)["llm"] == ["llm/0", "llm/1"]
    assert shares.counts() == {"llm/0": 1, "llm/1": 1, "stt/0": 2}


def test_one_that_is_down_comes_last() -> None:
    shares = EngineShares()
    for session in "ab":
        assert shares.take(session, {"llm": {"llm/0": False, "llm/1": True}})["llm"] == ["llm/1", "llm/0"]
    assert shares.take("c", {"llm": {"llm/0": False}})["llm"] == ["llm/0"], "it may be up when it is needed"


def test_the_sessions_of_a_lost_one_are_spread_over_the_others() -> None:
    shares = EngineShares()
    three = {"llm": {"llm/0": True, "llm/1": True, "llm/2": True}}
    for session in "abcdef":
        shares.take(session, three)
    shares.lost("llm/0", ["llm/1", "llm/2"])
    assert shares.counts() == {"llm/1": 3, "llm/2": 3}
    shares.lost("llm/1", [])
    assert shares.counts() == {"llm/1": 3, "llm/2": 3}, "they wait for it"
    assert shares.take("g", three)["llm"][0] == "llm/0"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60), st.integers(1, 5))
def test_no_replica_has_two_more_than_another_took(events: list[tuple[bool, int]], replicas: int) -> None:
    shares, living = EngineShares(), set[int]()
    up = {"llm": {f"llm/{number}": True for number in range(replicas)}}
    for takes, session in events:
        if not takes:
            shares.give_back(str(session))
            living.discard(session)
        elif session not in living:
            before = shares.counts()
            first = shares.take(str(session), up)["llm"][0]
            assert before[first] == min(before[name] for name in up["llm"])
            living.add(session)
    assert sum(shares.counts().values()) == len(living)
