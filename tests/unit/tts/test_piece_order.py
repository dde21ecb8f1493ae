"""Whose piece comes next: first pieces first, except before those that are about to fall silent; nobody waits for good."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.tts.piece_order import PieceOrder

pytestmark = pytest.mark.unit

MS = 1_000_000
MARGIN_MS, PATIENCE_MS = 120, 1_000


def order(*clauses: tuple[str, int, int]) -> PieceOrder[str]:
    """Clauses as (name, asked for at ms, audio in ms that came at that very moment or 0)."""
    made: PieceOrder[str] = PieceOrder(MARGIN_MS, PATIENCE_MS)
    for name, asked_ms, audio_ms in clauses:
        made.add(name, asked_ms * MS)
        made.stepped(name, audio_ms * MS, asked_ms * MS, asked_ms * MS)
    return made


def test_nobody_asks() -> None:
    assert order().next(0) is None
    assert len(order()) == 0


@pytest.mark.parametrize(
    ("clauses", "now_ms", "expected"),
    [
        pytest.param([("b", 1, 0), ("a", 2, 0)], 50, "b", id="first pieces in the order of asking"),
        pytest.param([("old", 0, 300), ("new", 10, 0)], 20, "new", id="a first piece before one that is ahead of real time"),
        pytest.param([("old", 0, 300), ("new", 10, 0)], 181, "old", id="not before one that is about to run out"),
        pytest.param([("old", 0, 300), ("new", 10, 0)], 900, "old", id="nor before one that has run out"),
        pytest.param([("a", 0, 500), ("b", 0, 400)], 10, "b", id="ahead, both: which runs out first"),
        pytest.param([("a", 0, 200), ("b", 0, 100)], 400, "b", id="behind, both: which ran out first"),
        pytest.param([("new", 0, 0), ("old", 0, 1_050)], 1_000, "new", id="one that waited for long is due, too"),
        pytest.param([("new", 0, 0), ("old", 0, 950)], 1_000, "old", id="behind one that was due before"),
    ],
)
def test_whose_turn_it_is(clauses: list[tuple[str, int, int]], now_ms: int, expected: str) -> None:
    assert order(*clauses).next(now_ms * MS) == expected


def test_a_step_without_sound_leaves_it_a_new_clause() -> None:
    made = order(("a", 0, 0), ("b", 1, 0))
    made.stepped("a", 0, 30 * MS, 30 * MS)
    assert made.next(30 * MS) == "a"
    made.stepped("a", 500 * MS, 60 * MS, 60 * MS)
    assert made.next(60 * MS) == "b"


def test_after_a_gap_the_audio_is_played_on_from_now() -> None:
    made = order(("late", 0, 100), ("other", 0, 1_800))
    made.stepped("late", 300 * MS, 1_600 * MS, 1_600 * MS)
    # It would have run out at 400 without the gap; it does at 1,900, behind the other.
    assert made.next(1_600 * MS) == "other"


def test_a_clause_that_goes_on_is_due_when_what_was_said_before_it_runs_out() -> None:
    made = order(("other", 0, 700))
    made.add("goes on", 0, reserve_ns=500 * MS)
    made.add("new", 100 * MS)
    assert made.next(200 * MS) == "new"
    made.remove("new")
    assert made.next(200 * MS) == "goes on"
    made.stepped("goes on", 300 * MS, 250 * MS, 250 * MS)  # it lasts until 800 now
    assert made.next(260 * MS) == "other"


def test_alone_a_clause_is_heard_with_its_first_piece() -> None:
    made: PieceOrder[str] = PieceOrder()
    made.add("a", 0)
    assert not made.stepped("a", 0, 0, 30 * MS)  # silence
    assert made.stepped("a", 300 * MS, 30 * MS, 110 * MS)


def test_among_others_a_clause_is_held_until_it_outlasts_a_step_of_everybody() -> None:
    made: PieceOrder[str] = PieceOrder()
    for name in "abcde":
        made.add(name, 0)
    assert not made.stepped("a", 300 * MS, 0, 100 * MS)  # five times 100 ms
    assert not made.stepped("a", 0, 100 * MS, 200 * MS)
    assert made.stepped("a", 300 * MS, 200 * MS, 300 * MS)
    assert made.stepped("a", 10 * MS, 300 * MS, 400 * MS)  # once heard, always
    made.add("goes on", 400 * MS, reserve_ns=50 * MS)
    assert made.stepped("goes on", 10 * MS, 400 * MS, 500 * MS)


def test_steps_that_take_longer_hold_longer_but_not_for_good() -> None:
    made: PieceOrder[str] = PieceOrder(longest_hold_ms=1_000)
    for name in "ab":
        made.add(name, 0)
    assert not made.stepped("a", 500 * MS, 0, 5_000 * MS)
    assert made.stepped("a", 500 * MS, 5_000 * MS, 10_000 * MS)


def test_a_held_clause_is_due_when_all_that_is_held_has_been_played() -> None:
    made: PieceOrder[str] = PieceOrder()
    for name in "abc":
        made.add(name, 0)
    made.stepped("a", 300 * MS, 0, 200 * MS)
    made.stepped("b", 350 * MS, 200 * MS, 400 * MS)
    made.stepped("a", 300 * MS, 400 * MS, 500 * MS)  # both pieces, from 500 on: until 1,100
    made.remove("c")
    assert made.next(600 * MS) == "b"


def test_what_is_over_has_no_turn() -> None:
    made = order(("a", 0, 0), ("b", 1, 0))
    made.remove("a")
    assert list(made) == ["b"]
    assert made.next(10 * MS) == "b"


@dataclass
class Clause:
    """One of a simulated run."""

    asked_ms: int
    steps: list[tuple[int, int]]
    """(ms of work, ms of audio)."""
    got_ms: list[int] = field(default_factory=list)
    due_ms: int = 0
    heard_ms: int | None = None

    def __hash__(self) -> int:
        return id(self)


STEPS = st.lists(st.tuples(st.integers(1, 150), st.integers(MARGIN_MS, 400)), min_size=1, max_size=8)
CLAUSES = st.lists(st.builds(Clause, st.integers(0, 1_500), STEPS), min_size=1, max_size=10)


def spoken(clauses: list[Clause]) -> list[tuple[int, Clause, list[Clause]]]:
    """Run a voice over ``clauses`` to the end: (ms, whose turn, who was there) of each step."""
    waiting = sorted(clauses, key=lambda clause: clause.asked_ms)
    made: PieceOrder[Clause] = PieceOrder(MARGIN_MS, PATIENCE_MS)
    now_ms, turns = 0, []
    while waiting or len(made):
        if not len(made):
            now_ms = max(now_ms, waiting[0].asked_ms)
        while waiting and waiting[0].asked_ms <= now_ms:
            made.add(waiting[0], waiting[0].asked_ms * MS)
            waiting.pop(0)
        clause = made.next(now_ms * MS)
        assert clause is not None
        turns.append((now_ms, clause, list(made)))
        work_ms, audio_ms = clause.steps[len(clause.got_ms)]
        now_ms += work_ms
        may_be_heard = made.stepped(clause, audio_ms * MS, (now_ms - work_ms) * MS, now_ms * MS)
        if may_be_heard and clause.heard_ms is None:
            clause.heard_ms = now_ms
        clause.due_ms = (max(clause.due_ms, now_ms) if clause.got_ms else now_ms) + audio_ms
        clause.got_ms.append(now_ms)
        if len(clause.got_ms) == len(clause.steps):
            made.remove(clause)
    return turns


@given(CLAUSES)
def test_everything_is_spoken_and_nobody_waits_for_good(clauses: list[Clause]) -> None:
    spoken(clauses)
    longest_ms = max(work_ms for clause in clauses for work_ms, _ in clause.steps)
    for clause in clauses:
        assert len(clause.got_ms) == len(clause.steps)
        # Once it is due, each other clause has one piece before it at most.
        begun_ms = clause.got_ms[0] - clause.steps[0][0]
        assert begun_ms - clause.asked_ms <= PATIENCE_MS - MARGIN_MS + len(clauses) * longest_ms


@given(CLAUSES)
def test_a_second_piece_before_a_first_one_is_for_those_about_to_fall_silent(clauses: list[Clause]) -> None:
    done: dict[Clause, int] = dict.fromkeys(clauses, 0)
    due: dict[Clause, int] = {}
    held: dict[Clause, int] = {}
    for now_ms, chosen, there in spoken(clauses):
        silent = [clause for clause in there if not done[clause]]
        if done[chosen] and silent:
            assert due[chosen] - now_ms <= MARGIN_MS
        pressing = [clause for clause in there if done[clause] and due[clause] - now_ms <= MARGIN_MS]
        if pressing and not done[chosen]:
            assert chosen.asked_ms + PATIENCE_MS - now_ms <= MARGIN_MS
        if pressing and done[chosen]:
            assert due[chosen] == min(due[clause] for clause in pressing)
        work_ms, audio_ms = chosen.steps[done[chosen]]
        heard = chosen.heard_ms is not None and chosen.heard_ms <= now_ms
        held[chosen] = held.get(chosen, 0) + audio_ms
        due[chosen] = max(due[chosen], now_ms + work_ms) + audio_ms if heard else now_ms + work_ms + held[chosen]
        done[chosen] += 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_on_a_fast_voice_everybody_s_first_piece_comes_before_anybody_s_second(asked_ms: list[int]) -> None:
    clauses = [Clause(asked, [(1, 400), (1, 400)]) for asked in asked_ms]
    turns = [clause for _, clause, there in spoken(clauses) if len(there) == len(clauses) or len(clauses) == 1]
    firsts = [clause for index, clause in enumerate(turns) if clause not in turns[:index]]
    assert turns[: len(firsts)] == firsts
