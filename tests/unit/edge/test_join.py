from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.edge.join import MAX_TYPED, Join, Output, Play, Typed
from rtvi_actors.edge.playout import AnswerOpened, Command, Grant, Heard, Playout, SendAudio, Tick, WakeAt
from rtvi_actors.frames.types import (
    AudioEnded,
    BotAudio,
    Cancel,
    Clause,
    Error,
    Frame,
    LlmEnded,
    LlmStarted,
    LlmText,
    Marks,
    Metrics,
    Pause,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.rtvi.events import (
    AnswerClause,
    AnswerEnded,
    AnswerStarted,
    AnswerText,
    BotStarted,
    BotStopped,
    ClauseSpoken,
    Failure,
    Interrupted,
    TtsStarted,
    TtsStopped,
    UserStarted,
    UserStopped,
    UserText,
    UserTyped,
)

pytestmark = pytest.mark.unit


def started(turn: int, source: str = "speech", under_bot: bool = False, reopens: int = 0) -> TurnStarted:
    return TurnStarted(turn=turn, request=f"r{turn}", source=source, under_bot=under_bot, reopens=reopens)


def ended(turn: int, attempt: int = 1) -> TurnEnded:
    return TurnEnded(turn=turn, attempt=attempt, last_sample=0)


def resumed(turn: int, attempt: int) -> SpeechResumed:
    return SpeechResumed(turn=turn, attempt=attempt)


def words(turn: int, text: str, attempt: int = 1, final: bool = True) -> Transcript:
    return Transcript(turn=turn, attempt=attempt, text=text, final=final, language="en")


def cancel(fence: int, reopens: int = 0) -> Cancel:
    return Cancel(fence=fence, reason="barge-in", reopens=reopens)


def llm(turn: int, *texts: str, attempt: int = 1) -> list[Frame]:
    """The LLM stage's frames of an answer of one clause per text."""
    where = {"turn": turn, "attempt": attempt}
    frames: list[Frame] = [LlmStarted(user_text=f"u{turn}", **where)]
    for number, text in enumerate(texts):
        frames += [LlmText(text=text, **where), Clause(clause=number, text=text, **where)]
    return [*frames, LlmEnded(clauses=len(texts), reason="stop", **where)]


def tts(turn: int, clause: int = 0, attempt: int = 1, pcm: bytes = bytes(1_920)) -> list[Frame]:
    where = {"turn": turn, "attempt": attempt, "clause": clause}
    return [BotAudio(first_sample=0, pcm=pcm, **where), AudioEnded(samples=len(pcm) // 2, **where)]


def outputs(*events: Frame | Typed | Heard, join: Join | None = None) -> list[Output]:
    join = join or Join()
    return [output for event in events for output in join.handle(event)]


def said(*events: Frame | Typed | Heard, join: Join | None = None) -> list[Output]:
    """The events for the translator alone."""
    return [output for output in outputs(*events, join=join) if not isinstance(output, Play | Grant)]


def grants(found: list[Output]) -> dict[str, int]:
    total: dict[str, int] = {}
    for output in found:
        if isinstance(output, Grant):
            total[output.stream] = total.get(output.stream, 0) + output.size_bytes
    return total


ANSWER = [
    AnswerStarted(1, "u1"),
    AnswerText(1, "Hello."),
    AnswerClause(1, 0, "Hello.", True),
    AnswerEnded(1),
]
BURST = [UserStopped(1), UserText(1, "Hi", final=True), *ANSWER]


def test_a_turn_is_joined_by_its_transcript_and_its_end_in_either_order() -> None:
    held = [*llm(1, "Hello."), *tts(1)]
    assert said(started(1), words(1, "Hi"), *held, ended(1)) == [UserStarted(1), UserText(1, "Hi", final=False), *BURST]
    assert said(started(1), ended(1), *held, words(1, "Hi")) == [UserStarted(1), *BURST]


def test_everything_may_come_before_the_turn_itself() -> None:
    frames = [*tts(1), *llm(1, "Hello."), words(1, "Hi"), started(1), ended(1)]
    assert said(*frames) == [UserStarted(1), UserText(1, "Hi", final=False), *BURST]


def test_nothing_of_the_bot_leaves_before_the_join() -> None:
    join = Join()
    assert outputs(*tts(1), *llm(1, "Hello."), join=join) == []
    assert outputs(started(1), words(1, "Hi"), join=join) == [UserStarted(1), UserText(1, "Hi", final=False)]
    joined = outputs(ended(1), join=join)
    assert [type(output.event) for output in joined if isinstance(output, Play)] == [
        AnswerOpened,
        Clause,
        BotAudio,
        AudioEnded,
        LlmEnded,
    ]


def test_after_the_join_all_is_live() -> None:
    join = Join()
    outputs(started(1), words(1, "Hi"), ended(1), join=join)
    start, text, clause, end = llm(1, "Hello.")
    assert outputs(start, join=join) == [AnswerStarted(1, "u1")]
    assert outputs(text, join=join) == [AnswerText(1, "Hello."), Grant("llm", "text", 6)]
    assert outputs(clause, join=join) == [AnswerClause(1, 0, "Hello.", True), Play(clause)]
    assert outputs(*tts(1), join=join) == [Play(frame) for frame in tts(1)]
    assert outputs(end, join=join) == [AnswerEnded(1), Play(end)]


def test_audio_waits_for_its_clause() -> None:
    join = Join()
    outputs(started(1), words(1, "Hi"), ended(1), join=join)
    marks = Marks(turn=1, attempt=1, clause=0, marks=[[0, 0]])
    assert outputs(marks, *tts(1), *tts(1, clause=1), join=join) == []
    first, second = (frame for frame in llm(1, "a", "b") if isinstance(frame, Clause))
    assert outputs(first, join=join)[1:] == [Play(frame) for frame in [first, marks, *tts(1)]]
    assert outputs(second, join=join)[1:] == [Play(frame) for frame in [second, *tts(1, clause=1)]]


def test_speech_that_goes_on_voids_the_attempt_and_gives_its_credit_back() -> None:
    join = Join()
    outputs(started(1), words(1, "Hi"), *llm(1, "Hello."), *tts(1), join=join)
    assert grants(outputs(resumed(1, 1), join=join)) == {"bot_audio": 1_920, "text": 6}
    # What comes late of the void attempt, also a transcript that was overtaken.
    assert grants(outputs(*llm(1, "Late."), *tts(1), words(1, "Hi"), join=join)) == {"bot_audio": 1_920, "text": 5}
    assert said(*llm(1, "Hello.", attempt=2), words(1, "Hi", attempt=2), ended(1, attempt=2), join=join) == [
        UserText(1, "Hi", final=False),
        *BURST,
    ]


def test_the_next_attempt_may_overtake_the_word_that_the_first_is_void() -> None:
    join = Join()
    found = outputs(started(1), *llm(1, "No."), words(1, "H"), *llm(1, "Hello.", attempt=2), resumed(1, 1), ended(1, 2), join=join)
    found += outputs(words(1, "Hi", attempt=2), join=join)
    assert [output for output in found if not isinstance(output, Play | Grant)][2:] == BURST


def test_a_final_of_one_attempt_does_not_join_the_end_of_another() -> None:
    assert said(started(1), words(1, "H", attempt=1), ended(1, attempt=2)) == [UserStarted(1), UserText(1, "H", final=False)]


def test_partial_words_are_told_as_not_final() -> None:
    assert said(started(1), words(1, "H", final=False), words(1, "Hi", attempt=1), words(1, "Hi y", final=False)) == [
        UserStarted(1),
        UserText(1, "H", final=False),
        UserText(1, "Hi", final=False),
    ]


@pytest.mark.parametrize("nothing", ["", "  "])
def test_a_turn_without_words_is_void(nothing: str) -> None:
    join = Join()
    found = outputs(started(1), words(1, nothing), *llm(1, "Hello."), *tts(1), ended(1), join=join)
    assert [output for output in found if not isinstance(output, Grant)] == [UserStarted(1), UserStopped(1)]
    assert grants(found) == {"bot_audio": 1_920, "text": 6}
    assert grants(outputs(*tts(1), join=join)) == {"bot_audio": 1_920}


def bot_speaks() -> Join:
    """Turn 1 is being answered."""
    join = Join()
    outputs(started(1), words(1, "Hi"), ended(1), *llm(1, "Hello.")[:-1], join=join)
    return join


def test_a_turn_under_the_bot_is_told_at_its_cancel() -> None:
    join = bot_speaks()
    assert outputs(started(2, under_bot=True), words(2, "St", final=False), words(2, "Stop"), join=join) == []
    assert outputs(cancel(2), join=join) == [
        UserStarted(2),
        Interrupted(1),
        AnswerEnded(1),
        Play(cancel(2)),
        UserText(2, "Stop", final=False),
    ]
    assert said(ended(2), join=join) == [UserStopped(2), UserText(2, "Stop", final=True)]


def test_an_answer_that_is_complete_is_not_ended_again_by_the_cancel() -> None:
    join = bot_speaks()
    outputs(LlmEnded(turn=1, attempt=1, clauses=1, reason="stop"), started(2, under_bot=True), join=join)
    assert outputs(cancel(2), join=join) == [UserStarted(2), Interrupted(1), Play(cancel(2))]


def test_a_bot_that_fell_silent_by_itself_is_not_interrupted() -> None:
    join = bot_speaks()
    outputs(started(2, under_bot=True), Heard(1, 0, 6), join=join)
    assert outputs(cancel(2), join=join) == [UserStarted(2), Play(cancel(2))]


@pytest.mark.parametrize("final", ["", "mhm"])
def test_a_turn_under_the_bot_without_a_cancel_leaves_no_trace(final: str) -> None:
    join = bot_speaks()
    pause, resume = Pause(turn=1), Resume(turn=1)
    assert outputs(started(2, under_bot=True), pause, words(2, final), resume, ended(2), join=join) == [Play(pause), Play(resume)]
    assert outputs(words(2, final), join=join) == []


def test_a_pause_may_come_before_the_join() -> None:
    join = Join()
    outputs(started(1), ended(1), started(2, under_bot=True), Pause(turn=1), join=join)
    opened = [output for output in outputs(words(1, "Hi"), join=join) if isinstance(output, Play)]
    assert opened == [Play(AnswerOpened(1)), Play(Pause(turn=1))]
    join = Join()
    outputs(started(1), ended(1), Pause(turn=1), Resume(turn=1), join=join)
    assert Play(Pause(turn=1)) not in outputs(words(1, "Hi"), join=join)


def test_a_cancel_stops_a_user_who_still_spoke() -> None:
    assert outputs(started(1), cancel(2)) == [UserStarted(1), UserStopped(1), Play(cancel(2))]


def test_nothing_below_the_fence_leaves() -> None:
    join = bot_speaks()
    outputs(cancel(2), join=join)
    late = [
        *llm(1, "Late."),
        *tts(1),
        words(1, "x"),
        ended(1),
        Pause(turn=1),
        Error(turn=1, scope="turn", retryable=False, text=""),
    ]
    found = outputs(*late, join=join)
    assert grants(found) == {"bot_audio": 1_920, "text": 5}
    assert all(isinstance(output, Grant) for output in found)


def test_audio_that_waits_for_its_clause_is_granted_back_at_the_cancel() -> None:
    join = bot_speaks()
    outputs(*tts(1, clause=1), join=join)
    assert grants(outputs(cancel(2), join=join)) == {"bot_audio": 1_920}


class TestReopened:
    """The user goes on with turn 1, which had ended too early."""

    GOES_ON = started(2, under_bot=True, reopens=1)

    def test_words_that_were_told_are_not_told_again(self) -> None:
        join = bot_speaks()
        assert said(self.GOES_ON, cancel(2, 1), words(2, "there"), ended(2), *llm(2, "Fine.")[:2], join=join) == [
            UserStarted(2),
            Interrupted(1),
            AnswerEnded(1),
            UserText(2, "there", final=False),
            UserStopped(2),
            UserText(2, "there", final=True),
            AnswerStarted(2, "u2"),
            AnswerText(2, "Fine."),
        ]

    def test_words_that_come_behind_the_cancel_are_told_before_those_of_the_next_turn(self) -> None:
        join = Join()
        found = said(started(1), ended(1), self.GOES_ON, cancel(2, 1), words(2, "there"), ended(2), *llm(2), join=join)
        assert found == [UserStarted(1), UserStopped(1), UserStarted(2), UserText(2, "there", final=False)]
        assert said(words(1, "Hi"), join=join) == [
            UserStopped(2),
            UserText(1, "Hi", final=True),
            UserText(2, "there", final=True),
            AnswerStarted(2, "u2"),
            AnswerEnded(2),
        ]

    def test_they_wait_while_the_user_speaks(self) -> None:
        join = Join()
        outputs(started(1), ended(1), self.GOES_ON, cancel(2, 1), join=join)
        assert outputs(words(1, "Hi"), join=join) == []
        assert said(words(2, "there"), ended(2), join=join)[1:] == [
            UserStopped(2),
            UserText(1, "Hi", final=True),
            UserText(2, "there", final=True),
        ]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_who_goes_on_without_words_after_all_is_answered(self, order: tuple[int, int]) -> None:
        join = Join()
        outputs(started(1), ended(1), self.GOES_ON, cancel(2, 1), join=join)
        frames = (words(1, "Hi"), words(2, ""))
        assert said(ended(2), *(frames[at] for at in order), *llm(2), join=join) == [
            UserStopped(2),
            UserText(1, "Hi", final=True),
            AnswerStarted(2, "u2"),
            AnswerEnded(2),
        ]

    def test_without_a_word_in_either_nothing_is_answered(self) -> None:
        join = Join()
        outputs(started(1), ended(1), self.GOES_ON, cancel(2, 1), join=join)
        assert outputs(ended(2), words(2, ""), words(1, ""), *llm(2), join=join) == [UserStopped(2)]

    def test_typed_text_in_mid_sentence_is_answered_behind_the_words_that_were_said(self) -> None:
        join = Join()
        outputs(started(1), Typed("r2", "3 nights", "m", run=True), ended(1), join=join)
        assert said(cancel(2, 1), started(2, "text", reopens=1), *llm(2), join=join) == [UserStopped(1), UserTyped("3 nights", "m")]
        assert said(words(1, "A room for"), join=join) == [
            UserText(1, "A room for", final=True),
            AnswerStarted(2, "u2"),
            AnswerEnded(2),
        ]


def test_an_error_of_words_that_are_waited_for_is_told() -> None:
    join = Join()
    late = Error(turn=1, scope="turn", retryable=True, text="slow")
    outputs(started(1), ended(1), cancel(2), join=join)
    assert outputs(late, words(1, ""), late, join=join) == [Failure("slow", fatal=False)]


def test_typed_text_is_echoed_in_its_turn_after_the_interruption() -> None:
    join = bot_speaks()
    assert outputs(Typed("r2", "Stop", "m", run=True), join=join) == []
    assert said(*llm(2, "Fine."), cancel(2), started(2, "text"), join=join) == [
        Interrupted(1),
        AnswerEnded(1),
        UserTyped("Stop", "m"),
        AnswerStarted(2, "u2"),
        AnswerText(2, "Fine."),
        AnswerClause(2, 0, "Fine.", True),
        AnswerEnded(2),
    ]


def test_text_that_is_only_remembered_is_echoed_at_once() -> None:
    assert outputs(Typed("r", "Note", "m", run=False)) == [UserTyped("Note", "m")]


def test_typed_texts_that_wait_are_bounded() -> None:
    join = Join()
    for number in range(MAX_TYPED + 1):
        join.handle(Typed(f"r{number + 1}", "x", str(number), run=True))
    assert said(started(1, "text"), join=join) == []
    assert said(started(2, "text"), join=join) == [UserTyped("x", "1")]


def test_what_the_application_says_is_marked() -> None:
    assert said(started(1, "say"), *llm(1, "Hello."))[0] == AnswerStarted(1, "u1", said=True)


def test_errors_are_told_and_only_those_of_the_session_are_fatal() -> None:
    assert outputs(Error(turn=1, scope="turn", retryable=True, text="slow")) == [Failure("slow", fatal=False)]
    assert outputs(Error(scope="session", retryable=False, text="gone")) == [Failure("gone", fatal=True)]


def test_other_frames_give_nothing() -> None:
    assert outputs(Metrics(segment="stt", name="ttfb_ms", value=1.0)) == []


# ------------------------------------------------------------------------------------------ any interleaving of the links


@dataclass
class Story:
    """Frames by link, each in its order, of some turns in a row."""

    links: dict[str, list[Frame | Typed]] = field(default_factory=lambda: {"speaking": [], "stt": [], "llm": [], "tts": []})
    answered: set[int] = field(default_factory=set)
    """Turns that come to an answer, whatever the order."""
    spoken: set[int] = field(default_factory=set)
    """Turns of speech that were confirmed ..."""
    worded: set[int] = field(default_factory=set)
    """... and whose message has words."""

    def turn(self, turn: int, plan: dict[str, Any]) -> None:
        kind, attempts = plan["kind"], plan["attempts"] if plan["kind"] in ("speech", "under_bot") else 1
        confirmed = plan["confirmed"] or kind != "under_bot"
        reopens = turn - 1 if plan["reopens"] and kind in ("under_bot", "text") and turn - 1 in self.spoken else 0
        self._speak(turn, kind, attempts, confirmed, reopens)
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            if kind in ("speech", "under_bot") and (last or plan["early_final"]):
                self.links["stt"] += [
                    words(turn, "part", attempt, final=False),
                    words(turn, plan["words"] if last else "early", attempt),
                ]
            if last or plan["speculated"]:
                self._answer(turn, attempt, plan["clauses"])
        if confirmed and kind in ("speech", "under_bot"):
            self.spoken.add(turn)
            if plan["words"] or reopens in self.worded:
                self.worded.add(turn)
        if confirmed and (turn in self.worded or kind in ("text", "say")):
            self.answered.add(turn)

    def _speak(self, turn: int, kind: str, attempts: int, confirmed: bool, reopens: int) -> None:
        speaking = self.links["speaking"]
        if kind == "text":
            self.answered = {number for number in self.answered if number >= turn}
            speaking += [Typed(f"r{turn}", "typed", "m", run=True), cancel(turn, reopens)]
        speaking.append(started(turn, kind if kind in ("text", "say") else "speech", kind == "under_bot", reopens))
        if kind == "under_bot":
            speaking.append(Pause(turn=turn - 1))
            speaking.append(cancel(turn, reopens) if confirmed else Resume(turn=turn - 1))
            if confirmed:
                self.answered = {number for number in self.answered if number >= turn}
        if kind in ("speech", "under_bot"):
            speaking += [resumed(turn, attempt) for attempt in range(1, attempts)]
            speaking.append(ended(turn, attempts))

    def _answer(self, turn: int, attempt: int, clauses: int) -> None:
        self.links["llm"] += llm(turn, *(f"{turn}/{attempt}/{number} " for number in range(clauses)), attempt=attempt)
        for number in range(clauses):
            self.links["tts"] += tts(turn, number, attempt, pcm=bytes([turn, attempt]) * 700)


PLAN = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["speech", "under_bot", "text", "say"]),
        "attempts": st.integers(1, 3),
        "words": st.sampled_from(["Hi", "Hi", ""]),
        "confirmed": st.booleans(),
        "early_final": st.booleans(),
        "speculated": st.booleans(),
        "clauses": st.integers(0, 3),
        "reopens": st.booleans(),
    }
)


class Edge:
    """Join and playout together; ``log``: (number of the step, output)."""

    def __init__(self) -> None:
        self.join = Join()
        self.playout = Playout(80)
        self.step = 0
        self.now_ms = 1_000
        self.wake_ms: int | None = None
        self.log: list[tuple[int, Any]] = []

    def take(self, event: Frame | Typed) -> None:
        self.step += 1
        self._run(self.join.handle(event))

    def rest(self) -> None:
        """Let all that can be played be played."""
        self.step += 1
        while self.wake_ms is not None:
            self.now_ms = self.wake_ms
            self._play(Tick())

    def _run(self, found: list[Output]) -> None:
        for output in found:
            if isinstance(output, Play):
                self._play(output.event)
            else:
                self.log.append((self.step, output))

    def _play(self, event: Any) -> None:
        commands: list[Command] = self.playout.handle(event, self.now_ms)
        self.wake_ms = next((command.at_ms for command in commands if isinstance(command, WakeAt)), None)
        for command in commands:
            self.log.append((self.step, command))
            if isinstance(command, Heard):
                self._run(self.join.handle(command))

    def of(self, turn: int) -> list[Any]:
        return [output for _, output in self.log if getattr(output, "turn", None) == turn]


BOT = (
    AnswerStarted,
    AnswerText,
    AnswerClause,
    AnswerEnded,
    TtsStarted,
    TtsStopped,
    BotStarted,
    BotStopped,
    ClauseSpoken,
    SendAudio,
)


def check_turn(found: list[Any], spoken: bool) -> None:
    """The order rules of one turn, all of whose frames came and which is over."""
    kinds = [type(output) for output in found]
    for start, stop in (
        (UserStarted, UserStopped),
        (AnswerStarted, AnswerEnded),
        (TtsStarted, TtsStopped),
        (BotStarted, BotStopped),
    ):
        assert kinds.count(start) == kinds.count(stop) <= 1
        assert start not in kinds or kinds.index(start) < kinds.index(stop)
    finals = [place for place, output in enumerate(found) if isinstance(output, UserText) and output.final]
    assert len(finals) <= 1
    bot = [place for place, kind in enumerate(kinds) if kind in BOT]
    if spoken and bot and finals:
        assert kinds.index(UserStopped) < finals[0] < bot[0]
    for earlier, later in (
        (BotStarted, SendAudio),
        (AnswerStarted, AnswerText),
        (TtsStarted, BotStarted),
        (SendAudio, ClauseSpoken),
    ):
        assert later not in kinds or kinds.index(earlier) < kinds.index(later)
    attempts = {output.text.split("/")[1] for output in found if isinstance(output, AnswerText)}
    sounds = {str(output.pcm[1]) for output in found if isinstance(output, SendAudio) and any(output.pcm)}
    assert len(attempts | sounds) <= 1
    assert kinds.count(Interrupted) <= 1


@settings(max_examples=250, deadline=None)
@given(plans=st.lists(PLAN, min_size=1, max_size=4), data=st.data())
def test_any_interleaving_of_the_links_obeys_the_order_rules(plans: list[dict[str, Any]], data: st.DataObject) -> None:
    story = Story()
    for number, plan in enumerate(plans, start=1):
        story.turn(number, plan)
    edge = Edge()
    fence, cancelled_at = 0, {}
    sent = sum(len(frame.pcm) for frame in story.links["tts"] if isinstance(frame, BotAudio))
    while any(story.links.values()):
        link = data.draw(st.sampled_from([name for name, frames in story.links.items() if frames]))
        frame = story.links[link].pop(0)
        edge.take(frame)
        if isinstance(frame, Cancel):
            for number in range(fence, frame.fence):
                cancelled_at[number] = edge.step
            fence = frame.fence
        if data.draw(st.integers(0, 9)) == 0:
            edge.rest()
    edge.rest()
    for number in story.answered:
        heard = [output for output in edge.of(number) if isinstance(output, Heard)]
        clauses = plans[number - 1]["clauses"]
        assert [place.clause for place in heard] == [max(0, clauses - 1)]
        assert sum(isinstance(output, ClauseSpoken) for output in edge.of(number)) == clauses
    edge.take(cancel(len(plans) + 1))
    told = [output.turn for _, output in edge.log if isinstance(output, UserText) and output.final]
    assert told == sorted(number for number in story.spoken if plans[number - 1]["words"]), "each word is told once, in order"
    for number, plan in enumerate(plans, start=1):
        check_turn(edge.of(number), spoken=plan["kind"] in ("speech", "under_bot"))
    for step, output in edge.log:
        number = getattr(output, "turn", None)
        late = isinstance(output, UserText) and output.final and number in story.spoken
        assert number not in cancelled_at or step <= cancelled_at[number] or late
        assert not isinstance(output, Interrupted) or step in {*cancelled_at.values(), edge.step}
    assert sum(output.size_bytes for _, output in edge.log if isinstance(output, Grant) and output.to == "tts") == sent


def test_what_the_bot_owes() -> None:
    join = Join()
    assert not join.owes
    join.handle(Typed("r1", "Hello.", "m1", run=True))
    assert join.owes
    assert join.waiting_texts == 1
    join.handle(started(1, "text"))
    assert not join.owes, "from here on the bot is thinking"
    assert not join.is_over(1)
    join.handle(Heard(1, 0, 0))
    assert join.is_over(1)
    join.handle(started(2))
    assert not join.owes, "the user is speaking"
    join.handle(ended(2))
    assert join.owes, "said, and not understood yet"
    join.handle(words(2, ""))
    assert not join.owes
    assert join.is_over(2)
    assert not join.is_over(3), "it has not begun"
    join.handle(cancel(4))
    assert join.is_over(3)


def test_a_typed_text_that_waits_for_words_said_before_it_is_owed() -> None:
    join = Join()
    join.handle(started(1))
    join.handle(ended(1))
    join.handle(Typed("r2", "And?", "m1", run=True))
    join.handle(cancel(2))
    join.handle(started(2, "text"))
    assert join.owes
    join.handle(words(1, "Late."))
    assert not join.owes
