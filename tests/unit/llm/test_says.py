"""Texts of the application's: one after the other, withdrawn, refused, failed at the end."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from rtvi_actors.errors import SessionClosedError, SessionError
from rtvi_actors.llm.says import MAX_WAITING, Says

pytestmark = pytest.mark.unit


def test_one_after_the_other() -> None:
    asked: list[str] = []
    says = Says(asked.append)
    first, second = Future[None](), Future[None]()
    says.add("One.", first)
    says.add("Two.", second)
    assert asked == ["say-1"]
    assert says.begin(3, "say-1") == "One."
    says.over(2)
    assert not first.done()
    says.over(3)
    assert first.done()
    assert asked == ["say-1", "say-2"]
    assert says.begin(4, "say-2") == "Two."
    assert not second.done()


def test_a_withdrawn_text_is_not_said() -> None:
    asked: list[str] = []
    says = Says(asked.append)
    futures = [Future[None]() for _ in range(3)]
    for future in futures:
        says.add("Text.", future)
    futures[1].cancel()
    futures[0].cancel()
    assert says.begin(1, "say-1") == ""
    says.over(1)
    assert asked == ["say-1", "say-3"]


def test_a_turn_that_nobody_asked_for() -> None:
    says = Says(lambda _: None)
    assert says.begin(1, "say-7") == ""
    says.add("One.", Future())
    assert says.begin(1, "say-7") == ""


def test_too_many_are_refused_and_the_end_fails_the_rest() -> None:
    says = Says(lambda _: None)
    futures = [Future[None]() for _ in range(MAX_WAITING + 2)]
    for future in futures:
        says.add("Text.", future)
    assert isinstance(futures[-1].exception(), SessionError)
    assert not futures[-2].done()
    says.close()
    late = Future[None]()
    says.add("Late.", late)
    assert all(isinstance(future.exception(), SessionClosedError) for future in [*futures[:-1], late])


def test_the_end_waits_for_what_is_said() -> None:
    asked: list[str] = []
    told: list[str] = []
    says = Says(asked.append)
    first, second, late = (Future[None]() for _ in range(3))
    says.add("One.", first)
    says.add("Two.", second)
    says.finish(lambda: told.append("end"))
    says.finish(lambda: told.append("another end"))
    says.add("Three.", late)
    with pytest.raises(SessionClosedError, match="is ending"):
        late.result(timeout=0)
    says.begin(1, "say-1")
    says.over(1)
    assert told == []
    says.begin(2, "say-2")
    says.over(2)
    assert second.done()
    assert told == ["end"]
    says.over(2)
    says.close()
    assert told == ["end"]


def test_where_nothing_is_said_the_end_comes_at_once() -> None:
    told: list[str] = []
    says = Says(lambda _: None)
    says.finish(lambda: told.append("end"))
    assert told == ["end"]
    closed = Says(lambda _: None)
    closed.close()
    closed.finish(lambda: told.append("too late"))
    assert told == ["end"]


def test_a_text_that_is_kept_whole_is_told_once_and_only_when_it_was_begun() -> None:
    says = Says(lambda request: None)
    futures = [Future[None]() for _ in range(3)]
    says.add("One.", futures[0], whole=True)
    says.add("Two.", futures[1])
    says.add("Three.", futures[2], whole=True)
    assert says.kept_whole(3) == ""
    assert says.begin(3, "say-1") == "One."
    says.over(3)
    assert (says.kept_whole(3), says.kept_whole(3)) == ("One.", "")
    says.begin(5, "say-2")
    says.over(5)
    assert says.kept_whole(5) == ""
    futures[2].cancel()
    says.begin(7, "say-3")
    assert says.kept_whole(7) == ""


def test_the_end_of_a_later_text_forgets_one_that_was_never_heard_of() -> None:
    says = Says(lambda request: None)
    for turn, request in ((1, "say-1"), (2, "say-2")):
        says.add("Text.", Future(), whole=True)
        says.begin(turn, request)
        says.over(turn)
    assert says.kept_whole(2) == "Text."
    assert says.kept_whole(1) == ""
