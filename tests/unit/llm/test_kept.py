"""What is kept of prompts, and the parts of a pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.llm.kept import KeptCaches, common_prefix, shares

pytestmark = pytest.mark.unit

SYSTEM = [1, 2, 3, 4]


def kept(max_bytes: int = 100, max_age_ms: int = 1_000) -> KeptCaches[str]:
    return KeptCaches(max_bytes, max_age_ms)


def test_a_next_prompt_takes_the_longest_common_beginning() -> None:
    caches = kept()
    caches.put("a", [*SYSTEM, 10, 11, 12], "A", 10, 0)
    assert caches.longest("a", [*SYSTEM, 10, 11, 99, 100], 1) == (6, "A")
    assert caches.longest("a", [5, *SYSTEM], 1) == (0, None)


def test_one_token_is_left_to_compute() -> None:
    caches = kept()
    caches.put("a", SYSTEM, "A", 10, 0)
    assert caches.longest("a", SYSTEM, 1) == (3, "A")
    assert caches.longest("a", [1], 1) == (0, None)


def test_a_new_session_takes_the_instructions_from_another() -> None:
    caches = kept()
    caches.put("a", [*SYSTEM, 10], "A", 10, 0)
    caches.put("b", [1, 2], "B", 10, 0)
    assert caches.longest("c", [*SYSTEM, 20, 21], 1) == (4, "A")


def test_its_own_wins_where_others_have_as_much() -> None:
    caches = kept()
    for session in "abc":
        caches.put(session, SYSTEM, session.upper(), 10, 0)
    assert caches.longest("b", [*SYSTEM, 9], 1) == (4, "B")


def test_the_oldest_go_when_memory_is_full() -> None:
    caches = kept(max_bytes=30)
    for at, session in enumerate("abc"):
        caches.put(session, [at], session, 10, at)
    caches.put("a", [0, 1], "a2", 12, 4)
    assert (len(caches), caches.size_bytes) == (2, 22)
    assert caches.longest("b", [1, 5], 5) == (0, None)
    caches.put("d", [7], "too big", 31, 6)
    assert caches.size_bytes == 0


def test_what_is_too_old_goes() -> None:
    caches = kept(max_age_ms=100)
    caches.put("a", SYSTEM, "A", 10, 0)
    assert caches.longest("a", [*SYSTEM, 9], 100) == (4, "A")
    assert caches.longest("a", [*SYSTEM, 9], 101) == (0, None)
    assert caches.size_bytes == 0


puts = st.lists(st.tuples(st.sampled_from("abcd"), st.lists(st.integers(0, 3), max_size=6), st.integers(0, 40), st.integers(0, 50)))


@given(puts, st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_bounds_hold_and_what_is_given_is_a_true_beginning(steps: list[tuple[str, list[int], int, int]], prompt: list[int]) -> None:
    caches: KeptCaches[tuple[int, ...]] = KeptCaches(100, 120)
    now_ms = 0
    for session, tokens, size_bytes, wait_ms in steps:
        now_ms += wait_ms
        caches.put(session, tokens, tuple(tokens), size_bytes, now_ms)
        assert 0 <= caches.size_bytes <= 100
        count, cache = caches.longest(session, prompt, now_ms)
        assert count < len(prompt)
        assert cache is None if count == 0 else cache[:count] == tuple(prompt[:count])
    for session in "abcd":
        caches.forget(session)
    assert (len(caches), caches.size_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("todo", "budget", "expected"),
    [
        ([], 8, []),
        ([5], 8, [5]),
        ([50], 8, [8]),
        ([50, 2], 8, [4, 2]),
        ([9, 9, 9], 2, [1, 1, 0]),
    ],
)
def test_shares(todo: list[int], budget: int, expected: list[int]) -> None:
    assert shares(todo, budget) == expected


@given(st.lists(st.integers(1, 500), min_size=1, max_size=16), st.integers(1, 300))
def test_every_prompt_is_computed_and_no_pass_is_longer_than_allowed(todo: list[int], budget: int) -> None:
    left, passes = list(todo), 0
    while left:
        parts = shares(left, budget)
        rows = [part for part in parts if part]
        assert len(rows) * max(rows) <= budget
        assert parts[0] > 0
        left = [count - part for count, part in zip(left, parts, strict=True) if count > part]
        passes += 1
        assert passes <= sum(todo)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(first: list[int], second: list[int]) -> None:
    count = common_prefix(first, second)
    assert first[:count] == second[:count]
    assert count == min(len(first), len(second)) or first[count] != second[count]
