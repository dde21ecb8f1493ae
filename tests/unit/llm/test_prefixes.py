"""Which beginnings of prompts are kept computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.llm.kept import common_prefix
from rtvi_actors.llm.prefixes import Prefixes, Prime

pytestmark = pytest.mark.unit


def tokens(count: int, start: str = "a") -> tuple[str, ...]:
    return (start,) * count


def keep(prefixes: Prefixes, session: str, wanted: tuple[str, ...]) -> Prime:
    prefixes.want(session, wanted)
    prime = prefixes.next()
    assert prime is not None
    assert prime.tokens == wanted
    prefixes.primed(prime)
    return prime


def test_the_longest_that_leaves_a_token() -> None:
    prefixes = Prefixes(1_000, 5)
    assert prefixes.longest(tokens(30)) == ()
    keep(prefixes, "s", tokens(10))
    keep(prefixes, "s", tokens(20))
    assert prefixes.longest(tokens(30)) == tokens(20)
    assert prefixes.longest(tokens(20)) == tokens(10)
    assert prefixes.longest((*tokens(12), "b", "b", "b", "b", "b", "b", "b", "b", "b", "b")) == tokens(10)
    assert prefixes.longest(tokens(30, "c")) == ()


def test_nothing_is_computed_for_a_small_gain() -> None:
    prefixes = Prefixes(1_000, 5)
    keep(prefixes, "s", tokens(10))
    prefixes.want("s", tokens(14))
    assert prefixes.next() is None
    prefixes.want("s", tokens(15))
    assert prefixes.next() == Prime("s", tokens(15), forget=False)


def test_the_newest_wish_comes_first() -> None:
    prefixes = Prefixes(1_000, 5)
    prefixes.want("one", tokens(10))
    prefixes.want("two", tokens(10, "b"))
    assert keep_next(prefixes) == "two"
    assert keep_next(prefixes) == "one"
    assert prefixes.next() is None


def keep_next(prefixes: Prefixes) -> str:
    prime = prefixes.next()
    assert prime is not None
    prefixes.primed(prime)
    return prime.session


def test_a_full_memory_is_forgotten_whole() -> None:
    prefixes = Prefixes(100, 5)
    assert not keep(prefixes, "s", tokens(40)).forget
    assert not keep(prefixes, "s", tokens(46)).forget
    assert keep(prefixes, "s", tokens(50, "b")).forget
    assert prefixes.kept_tokens == 50
    assert prefixes.longest(tokens(60)) == ()


def test_sessions_that_would_drive_each_other_out_get_nothing() -> None:
    prefixes = Prefixes(100, 5)
    prefixes.want("one", tokens(30))
    prefixes.want("two", tokens(30, "b"))
    assert prefixes.next() is None
    prefixes.forget("one")
    prefixes.forget("one")
    assert prefixes.next() == Prime("two", tokens(30, "b"), forget=False)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.text("xy", min_size=1, max_size=40)), max_size=40))
def test_memory_is_bounded(wishes: list[tuple[str, str]]) -> None:
    prefixes = Prefixes(60, 3)
    for session, text in wishes:
        prefixes.want(session, text)
        for _ in range(5):
            prime = prefixes.next()
            if prime is None:
                break
            prefixes.primed(prime)
            assert prefixes.kept_tokens <= 60
            assert prefixes.longest((*prime.tokens, "x")) == prime.tokens


@pytest.mark.parametrize(
    ("first", "second", "count"), [([], [], 0), ([1], [], 0), ([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([2], [1], 0)]
)
def test_common_prefix(first: list[int], second: list[int], count: int) -> None:
    assert common_prefix(first, second) == count
