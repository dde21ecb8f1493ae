"""Second places: a session has two while it moves, and one afterwards, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.config import Scheduler
from rtvi_actors.errors import CapacityError
from rtvi_actors.scheduler.admission import Admissions

pytestmark = pytest.mark.unit


def table(*groups: str, per_group: int = 2) -> Admissions:
    made = Admissions(Scheduler(sessions_per_group=per_group, warm_groups=len(groups), max_sessions=8))
    for group in groups:
        made.group_starting(group)
        made.group_ready(group, {"e", "f"})
    return made


def taken(made: Admissions) -> dict[str, set[str]]:
    return {group.name: set(group.sessions) for group in made.groups()}


def test_done_it_has_its_second_place_alone() -> None:
    made = table("a", "b")
    made.admit("s", "e", 0)
    assert made.move("s").group == "b"
    assert taken(made) == {"a": {"s"}, "b": {"s"}}
    assert made.moved("s", done=True) is None
    assert taken(made) == {"a": set(), "b": {"s"}}
    assert made.free_places() == 3


def test_not_done_it_has_its_first_place_alone() -> None:
    made = table("a", "b")
    made.admit("s", "e", 0)
    made.move("s")
    assert made.moved("s", done=False) is None
    assert made.moved("s", done=False) is None
    assert taken(made) == {"a": {"s"}, "b": set()}
    assert made.places()[0].group == "a"


def test_a_group_that_is_to_end_does_so_when_its_last_session_has_moved() -> None:
    made = table("a", "b")
    made.admit("s", "e", 0)
    assert made.group_draining("a") is None
    made.move("s")
    assert made.moved("s", done=True) == "a"


def test_an_own_group_ends_once_it_was_moved_to_or_from() -> None:
    for done, ended in ((True, "a"), (False, "b")):
        made = table("a", "b", per_group=1)
        made.admit("s", "e", 0)
        made.move("s")
        assert made.moved("s", done=done) == ended


@pytest.mark.parametrize("what", ["unknown", "twice", "nowhere"])
def test_no_second_place(what: str) -> None:
    made = table("a") if what == "nowhere" else table("a", "b")
    made.admit("s", "e", 0)
    if what == "twice":
        made.move("s")
    before = taken(made)
    with pytest.raises(CapacityError):
        made.move("s" if what != "unknown" else "t")
    assert taken(made) == before


def test_the_old_group_dies_while_its_session_moves() -> None:
    made = table("a", "b")
    made.admit("s", "e", 0)
    made.move("s")
    assert made.group_broken("a") == "a"
    assert made.group_gone("a") == []
    assert made.moved("s", done=True) is None
    assert [place.group for place in made.places()] == ["b"]


def test_the_new_group_dies_while_a_session_comes() -> None:
    made = table("a", "b")
    made.admit("s", "e", 0)
    made.move("s")
    assert made.group_broken("b") == "b"
    assert made.group_gone("b") == []
    assert made.moved("s", done=False) is None
    assert [place.group for place in made.places()] == ["a"]
    assert made.release("s", clean=True) is None
    assert taken(made) == {"a": set()}


def test_a_session_is_handed_to_an_edge_with_links() -> None:
    made = table("a")
    made.admit("s", "e", 0)
    assert made.hand_over("s", "strange") is None
    assert made.hand_over("t", "f") is None
    place = made.hand_over("s", "f")
    assert place is not None
    assert made.sessions_of_edge("f") == ["s"]
    assert made.sessions_of_edge("e") == []


EVENTS = st.lists(
    st.tuples(st.sampled_from(["admit", "move", "done", "stay", "release", "drain", "gone"]), st.integers(0, 3)), max_size=60
)


@given(EVENTS, st.sampled_from([1, 2]))
def test_nobody_has_no_place_or_one_place_too_many_in_the_end(events: list[tuple[str, int]], per_group: int) -> None:
    made: Any = table("0", "1", "2", "3", per_group=per_group)
    for what, number in events:
        session = f"s{number}"
        try:
            match what:
                case "admit":
                    made.admit(session, "e", 0)
                case "move":
                    made.move(session)
                case "done" | "stay":
                    made.moved(session, done=what == "done")
                case "release":
                    made.moved(session, done=True)
                    made.release(session, clean=True)
                case "drain":
                    made.group_draining(str(number))
                case "gone" if made.group_broken(str(number)):
                    made.group_gone(str(number))
        except CapacityError:
            continue
        for group in made.groups():
            assert len(group.sessions) <= per_group
    for number in range(4):
        made.moved(f"s{number}", done=True)
    held = [session for group in made.groups() for session in group.sessions]
    assert sorted(held) == sorted(place.session for place in made.places() if any(g.name == place.group for g in made.groups()))
    assert len(held) == len(set(held))
