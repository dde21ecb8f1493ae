"""Which turns are answered, and when: every order of the frames that decide it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.frames.types import (
    Cancel,
    ClientText,
    Frame,
    Pause,
    Played,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.llm.turns import PLAYED_WAIT_MS, Begin, Command, Commit, Heard, Note, Say, Stop, TurnTable, WakeAt, Withdraw

pytestmark = pytest.mark.unit


def started(turn: int, source: str = "speech", request: str = "", under_bot: bool = False, reopens: int = 0) -> TurnStarted:
    return TurnStarted(turn=turn, request=request, source=source, under_bot=under_bot, reopens=reopens)


def words(turn: int, attempt: int, text: str = "hello") -> Transcript:
    return Transcript(turn=turn, attempt=attempt, text=text, final=True, language="en")


def ended(turn: int, attempt: int) -> TurnEnded:
    return TurnEnded(turn=turn, attempt=attempt, last_sample=0)


def resumed(turn: int, attempt: int) -> SpeechResumed:
    return SpeechResumed(turn=turn, attempt=attempt)


def cancel(fence: int, reopens: int = 0) -> Cancel:
    return Cancel(fence=fence, reason="speech", reopens=reopens)


def played(turn: int, clause: int = 1, char: int = 0) -> Played:
    return Played(turn=turn, clause=clause, char=char, final=True)


def begin(
    turn: int, attempt: int, text: str = "hello", committed: bool = True, source: str = "speech", audio: bool = True
) -> Begin:
    return Begin(turn, attempt, text, source, audio, committed)


def run(frames: list[Frame], speculate: bool = True, now_ms: int = 0) -> list[Command]:
    table = TurnTable(speculate)
    return [command for frame in frames for command in table.handle(frame, now_ms)]


def test_words_then_end() -> None:
    assert run([started(1), words(1, 1), ended(1, 1)]) == [begin(1, 1, committed=False), Commit(1, 1, "hello")]


def test_end_then_words() -> None:
    assert run([started(1), ended(1, 1), words(1, 1)]) == [Commit(1, 1, "hello"), begin(1, 1)]


def test_without_speculation_nothing_begins_before_the_commit() -> None:
    assert run([started(1), words(1, 1)], speculate=False) == []
    assert run([started(1), words(1, 1), ended(1, 1)], speculate=False) == [Commit(1, 1, "hello"), begin(1, 1)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_one_attempt_in_every_order(order: tuple[int, ...]) -> None:
    frames: list[Frame] = [started(1), words(1, 1), ended(1, 1)]
    commands = run([frames[at] for at in order])
    assert [type(command) for command in commands].count(Commit) == 1
    assert [(c.turn, c.attempt) for c in commands if isinstance(c, Begin)] == [(1, 1)]


def test_speech_that_goes_on_stops_the_trial() -> None:
    assert run([started(1), words(1, 1, "I want"), resumed(1, 1), words(1, 2, "I want tea"), ended(1, 2)]) == [
        begin(1, 1, "I want", committed=False),
        Stop(1),
        begin(1, 2, "I want tea", committed=False),
        Commit(1, 2, "I want tea"),
    ]


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_two_attempts_in_every_order(order: tuple[int, ...]) -> None:
    """Each sender's frames keep their order; between speaking and STT there is none."""
    frames: list[Frame] = [started(1), resumed(1, 1), ended(1, 2), words(1, 1, "old"), words(1, 2, "new")]
    if [at for at in order if at < 3] != [0, 1, 2] or order.index(3) > order.index(4):
        return
    commands = run([frames[at] for at in order])
    commits = [command for command in commands if isinstance(command, Commit)]
    begins = [command for command in commands if isinstance(command, Begin)]
    assert commits == [Commit(1, 2, "new")]
    assert (begins[-1].attempt, begins[-1].text) == (2, "new")
    # an answer on the old words was stopped before the new one began
    if len(begins) == 2:
        assert commands.index(Stop(1)) < commands.index(begins[1])


def test_late_words_of_a_void_attempt_are_dropped() -> None:
    assert run([started(1), resumed(1, 1), words(1, 1)]) == []
    assert run([started(1), ended(1, 2), words(1, 1)]) == []


def test_words_twice_begin_once() -> None:
    assert run([started(1), words(1, 1), words(1, 1)]) == [begin(1, 1, committed=False)]


def test_partial_words_are_nothing() -> None:
    partial = Transcript(turn=1, attempt=1, text="hel", final=False, language="en")
    assert run([started(1), partial]) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_words_no_turn(order: tuple[int, int]) -> None:
    frames: list[Frame] = [words(1, 1, ""), ended(1, 1)]
    assert run([started(1), *(frames[at] for at in order), words(1, 1, "late")]) == []


class TestUnderTheBot:
    """Turns that were opened by speech while the bot talked."""

    FIRST = (started(1), words(1, 1), ended(1, 1))

    def test_nothing_before_the_cancel(self) -> None:
        table = TurnTable(speculate=True)
        for frame in self.FIRST:
            table.handle(frame, 0)
        assert table.handle(started(2, under_bot=True), 10) == []
        assert table.handle(Pause(turn=1), 10) == []
        assert table.handle(words(2, 1, "stop"), 10) == []
        assert table.handle(cancel(2), 20) == [Stop(1), WakeAt(20 + PLAYED_WAIT_MS)]
        assert table.handle(played(1, 0, 4), 30) == [Stop(1), Heard(1, 0, 4), begin(2, 1, "stop", committed=False)]
        assert table.handle(ended(2, 1), 40) == [Commit(2, 1, "stop")]

    def test_what_was_heard_is_waited_for_100_ms(self) -> None:
        table = TurnTable(speculate=True)
        for frame in (*self.FIRST, started(2, under_bot=True), words(2, 1, "stop"), cancel(2)):
            table.handle(frame, 0)
        assert table.wake(PLAYED_WAIT_MS - 1) == [WakeAt(PLAYED_WAIT_MS)]
        assert table.wake(PLAYED_WAIT_MS) == [begin(2, 1, "stop", committed=False)]
        assert table.handle(played(1), PLAYED_WAIT_MS + 1) == [Stop(1), Heard(1, 1, 0)]

    def test_the_users_message_is_kept_at_once(self) -> None:
        table = TurnTable(speculate=True)
        for frame in (*self.FIRST, started(2, under_bot=True), words(2, 1, "stop"), cancel(2)):
            table.handle(frame, 0)
        assert table.handle(ended(2, 1), 10) == [Commit(2, 1, "stop")]
        assert table.handle(played(1), 20) == [Stop(1), Heard(1, 1, 0), begin(2, 1, "stop")]

    def test_played_may_come_before_the_cancel(self) -> None:
        table = TurnTable(speculate=True)
        for frame in (*self.FIRST, started(2, under_bot=True), played(1), words(2, 1, "stop")):
            table.handle(frame, 0)
        assert table.handle(cancel(2), 10) == [Stop(1), begin(2, 1, "stop", committed=False)]

    def test_without_a_cancel_it_is_void_at_its_end(self) -> None:
        frames = [*self.FIRST, started(2, under_bot=True), Resume(turn=1), words(2, 1, "late"), ended(2, 1)]
        assert [c for c in run(frames) if c.turn == 2] == []  # type: ignore[union-attr]

    def test_a_bot_that_went_on_may_still_be_interrupted(self) -> None:
        frames = [*self.FIRST, started(2, under_bot=True), Resume(turn=1), played(1), words(2, 1, "yes"), cancel(2), ended(2, 1)]
        assert run(frames)[-3:] == [Stop(1), begin(2, 1, "yes", committed=False), Commit(2, 1, "yes")]

    def test_an_end_without_a_cancel_makes_it_void(self) -> None:
        frames = [*self.FIRST, started(2, under_bot=True), ended(2, 1), words(2, 1, "late")]
        assert [c for c in run(frames) if c.turn == 2] == []  # type: ignore[union-attr]

    def test_the_bot_turn_goes_on_when_it_was_void(self) -> None:
        frames = [*self.FIRST, started(2, under_bot=True), words(2, 1, ""), Resume(turn=1), played(1, 1, 0)]
        assert run(frames)[-2:] == [Stop(1), Heard(1, 1, 0)]


def test_cancel_drops_what_is_not_committed() -> None:
    table = TurnTable(speculate=True)
    table.handle(started(1), 0)
    assert table.handle(words(1, 1), 0) == [begin(1, 1, committed=False)]
    assert table.handle(cancel(2), 0) == [Stop(1)]
    for frame in (ended(1, 1), words(1, 2), resumed(1, 1), started(1), played(1)):
        assert table.handle(frame, 0) == []
    assert table.fence == 2


class TestReopened:
    """The user went on behind an end that came too early."""

    GOES_ON = started(2, under_bot=True, reopens=1)

    def test_the_words_of_both_are_one_message(self) -> None:
        frames = [
            started(1),
            words(1, 1, "a room "),
            ended(1, 1),
            self.GOES_ON,
            cancel(2, 1),
            played(1, 0),
            words(2, 1, "for two."),
        ]
        assert run([*frames, ended(2, 1)]) == [
            begin(1, 1, "a room ", committed=False),
            Commit(1, 1, "a room "),
            Stop(1),
            Withdraw(1),
            Stop(1),
            Heard(1, 0, 0),
            begin(2, 1, "a room for two.", committed=False),
            Commit(2, 1, "a room for two."),
        ]

    def test_words_that_come_behind_the_cancel_are_waited_for(self) -> None:
        table = TurnTable(speculate=True)
        for frame in (started(1), ended(1, 1), self.GOES_ON, cancel(2, 1), words(2, 1, "for two."), ended(2, 1)):
            assert table.handle(frame, 0) == []
        assert table.handle(words(1, 1, "a room"), 10) == [Commit(2, 1, "a room for two."), begin(2, 1, "a room for two.")]

    def test_a_cough_behind_it_changes_nothing(self) -> None:
        frames = [started(1), ended(1, 1), self.GOES_ON, words(2, 1, ""), ended(2, 1), Resume(turn=1), words(1, 1, "a room")]
        assert run(frames) == [Commit(1, 1, "a room"), begin(1, 1, "a room")]

    def test_who_goes_on_without_words_after_all_is_answered(self) -> None:
        frames = [
            started(1),
            words(1, 1, "a room"),
            ended(1, 1),
            self.GOES_ON,
            cancel(2, 1),
            played(1, 0),
            ended(2, 1),
            words(2, 1, ""),
        ]
        assert run(frames)[-2:] == [Commit(2, 1, "a room"), begin(2, 1, "a room")]

    def test_without_a_word_in_either_nothing_is_answered(self) -> None:
        frames = [started(1), ended(1, 1), self.GOES_ON, cancel(2, 1), ended(2, 1), words(2, 1, ""), words(1, 1, "")]
        assert run(frames) == []

    def test_on_and_on(self) -> None:
        frames = [started(1), ended(1, 1), self.GOES_ON, cancel(2, 1), ended(2, 1), words(1, 1, "a"), words(2, 1, "b")]
        later = [started(3, under_bot=True, reopens=2), cancel(3, 2), ended(3, 1), words(3, 1, "c")]
        assert run([*frames, *later], now_ms=0)[:2] == [Commit(2, 1, "a b"), begin(2, 1, "a b")]
        table = TurnTable(speculate=True)
        for frame in (*frames, *later):
            table.handle(frame, 0)
        assert table.wake(PLAYED_WAIT_MS) == [begin(3, 1, "a b c")]

    def test_typed_text_in_mid_sentence_joins_what_was_said(self) -> None:
        frames = [started(1), ended(1, 1), cancel(2, 1), started(2, "text", "r1", reopens=1)]
        typed = ClientText(request="r1", text="3 nights", run=True, audio=True)
        assert run([*frames, typed, words(1, 1, "a room for")]) == [
            Commit(2, 1, "a room for 3 nights"),
            begin(2, 1, "a room for 3 nights", source="text"),
        ]


def test_late_words_of_a_turn_that_ended_before_its_cancel_are_kept() -> None:
    assert run([started(1), ended(1, 1), cancel(2), words(1, 1, "a room")]) == [Commit(1, 1, "a room")]
    assert run([started(1), ended(1, 1), cancel(2), words(1, 1, "")]) == []
    assert run([started(1), cancel(2), words(1, 1, "a room")]) == [], "it had not ended"


def test_the_next_answer_waits_for_words_that_are_still_to_come() -> None:
    table = TurnTable(speculate=True)
    for frame in (started(1), ended(1, 1), cancel(2), started(2), words(2, 1, "and this")):
        assert table.handle(frame, 0) == []
    assert table.handle(words(1, 1, "a room"), 10) == [Commit(1, 1, "a room"), begin(2, 1, "and this", committed=False)]


def test_a_lower_cancel_changes_nothing() -> None:
    table = TurnTable(speculate=True)
    table.handle(cancel(5), 0)
    assert table.handle(cancel(3), 0) == []
    assert table.fence == 5


def test_an_earlier_answer_that_nobody_cancelled_is_waited_for_too() -> None:
    table = TurnTable(speculate=True)
    for frame in (started(1), words(1, 1), ended(1, 1)):
        table.handle(frame, 0)
    assert table.handle(started(2), 5) == []
    assert table.handle(words(2, 1), 10) == [WakeAt(10 + PLAYED_WAIT_MS)]
    assert table.wake(10 + PLAYED_WAIT_MS) == [begin(2, 1, committed=False)]


class TestTyped:
    """Typed text is joined with its turn by the request."""

    TEXT = ClientText(request="r1", text="hi", run=True, audio=False)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_either_order(self, order: tuple[int, int]) -> None:
        frames: list[Frame] = [started(3, "text", "r1"), self.TEXT]
        assert run([cancel(3), *(frames[at] for at in order)]) == [
            Commit(3, 1, "hi"),
            begin(3, 1, "hi", source="text", audio=False),
        ]

    def test_of_another_request(self) -> None:
        assert run([started(3, "text", "r2"), self.TEXT]) == []

    def test_interrupting_it_waits_for_what_was_heard(self) -> None:
        table = TurnTable(speculate=True)
        for frame in (started(1), words(1, 1), ended(1, 1), self.TEXT):
            table.handle(frame, 0)
        assert table.handle(cancel(2), 0) == [Stop(1)]
        assert table.handle(started(2, "text", "r1"), 1) == [Commit(2, 1, "hi"), WakeAt(PLAYED_WAIT_MS)]
        assert table.handle(played(1), 2) == [Stop(1), Heard(1, 1, 0), begin(2, 1, "hi", source="text", audio=False)]

    def test_a_text_that_is_not_run_is_noted(self) -> None:
        assert run([ClientText(request="", text="page 2", run=False, audio=True)]) == [Note("page 2")]

    def test_cancelled_before_the_text_came_it_is_kept_but_not_answered(self) -> None:
        assert run([started(3, "text", "r1"), cancel(4), self.TEXT]) == [Commit(3, 1, "hi")]

    def test_texts_that_wait_are_bounded(self) -> None:
        table = TurnTable(speculate=True)
        for count in range(100):
            table.handle(ClientText(request=f"r{count}", text="hi", run=True, audio=True), 0)
        assert table.handle(started(1, "text", "r0"), 0) == []
        assert table.handle(started(2, "text", "r99"), 0) == [Commit(2, 1, "hi"), begin(2, 1, "hi", source="text")]


def test_what_was_heard_may_be_known_before_the_commit() -> None:
    """The edge makes the join by itself, and a text of no words is over at once."""
    assert run([started(1), words(1, 1), played(1), ended(1, 1)]) == [
        begin(1, 1, committed=False),
        Commit(1, 1, "hello"),
        Stop(1),
        Heard(1, 1, 0),
    ]


def test_coughs_under_an_answer_do_not_push_it_out() -> None:
    table = TurnTable(speculate=True)
    for frame in (started(1, "say", "say-1"), *(frame for turn in range(2, 60) for frame in cough(turn))):
        table.handle(frame, 0)
    assert table.handle(played(1), 0) == [Stop(1), Heard(1, 1, 0)]


def cough(turn: int) -> list[Frame]:
    return [started(turn, under_bot=True), words(turn, 1, ""), ended(turn, 1), Resume(turn=1)]


def test_say_needs_only_its_turn() -> None:
    assert run([started(1, "say", "s1"), played(1, 1, 0)]) == [Say(1, "s1"), Stop(1), Heard(1, 1, 0)]
    assert run([started(1, "say", "s1"), cancel(2)]) == [Say(1, "s1"), Stop(1)]


frames = st.one_of(
    st.builds(
        started,
        st.integers(1, 5),
        st.sampled_from(["speech", "text", "say"]),
        st.sampled_from("abc"),
        st.booleans(),
        st.integers(0, 5),
    ),
    st.builds(words, st.integers(1, 5), st.integers(1, 3), st.sampled_from(["", "x", "y"])),
    st.builds(ended, st.integers(1, 5), st.integers(1, 3)),
    st.builds(resumed, st.integers(1, 5), st.integers(1, 3)),
    st.builds(cancel, st.integers(1, 6), st.integers(0, 5)),
    st.builds(played, st.integers(1, 5), st.integers(0, 2), st.integers(0, 9)),
    st.builds(lambda turn: Resume(turn=turn), st.integers(1, 5)),
    st.builds(ClientText, request=st.sampled_from("abc"), text=st.sampled_from(["", "t"]), run=st.booleans(), audio=st.booleans()),
)


@given(st.lists(frames, max_size=60), st.booleans())
def test_whatever_comes(taken: list[Frame], speculate: bool) -> None:
    """One commit a turn, one answer at a time in a turn, nothing of a cancelled turn, nothing on trial if that is not allowed."""
    table = TurnTable(speculate)
    committed: set[int] = set()
    running: dict[int, int] = {}
    ended_turns: set[int] = set()
    for now_ms, frame in enumerate(taken):
        if isinstance(frame, TurnEnded) or (isinstance(frame, TurnStarted) and frame.source == "text"):
            ended_turns.add(frame.turn)
        for command in table.handle(frame, now_ms):
            if isinstance(command, Commit):
                assert command.turn not in committed
                assert command.turn >= table.fence or command.turn in ended_turns
                committed.add(command.turn)
                assert running.get(command.turn, command.attempt) == command.attempt
            elif isinstance(command, Begin):
                assert command.turn not in running
                assert command.turn >= table.fence
                assert command.committed == (command.turn in committed)
                assert command.committed or speculate
                running[command.turn] = command.attempt
            elif isinstance(command, Stop):
                running.pop(command.turn, None)
            elif isinstance(command, WakeAt):
                assert now_ms < command.at_ms <= now_ms + PLAYED_WAIT_MS


def test_memory_is_bounded() -> None:
    table = TurnTable(speculate=True)
    for turn in range(1, 1_000):
        table.handle(started(turn), 0)
    assert table.handle(words(1, 1), 0) == []
    assert table.handle(words(999, 1), 0) == [begin(999, 1, committed=False)]
