from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.edge.playout import (
    AnswerOpened,
    BotStateChanged,
    Command,
    Grant,
    Heard,
    Playout,
    PlayoutEvent,
    SendAudio,
    Tick,
    WakeAt,
)
from rtvi_actors.frames.types import AudioEnded, BotAudio, Cancel, Clause, LlmEnded, Marks, Pause, Resume
from rtvi_actors.rtvi.events import BotStarted, BotStopped, ClauseSkipped, ClauseSpoken, TtsStarted, TtsStopped, WordsSpoken

pytestmark = pytest.mark.unit

FRAME = bytes(1_920)
LEAD_MS = 80
START_MS = 10_000


class Desk:
    """A playout with a clock that jumps from wake to wake, and all that it said with the time of it."""

    def __init__(self) -> None:
        self.playout = Playout(LEAD_MS)
        self.now_ms = START_MS
        self.wake_ms: int | None = None
        self.log: list[tuple[int, Command]] = []

    def tell(self, *events: PlayoutEvent) -> None:
        for event in events:
            commands = self.playout.handle(event, self.now_ms)
            wakes = [command for command in commands if isinstance(command, WakeAt)]
            assert wakes == commands[len(commands) - len(wakes) :]
            assert len(wakes) <= 1
            self.wake_ms = wakes[0].at_ms if wakes else None
            assert self.wake_ms is None or self.wake_ms > self.now_ms
            self.log += [(self.now_ms - START_MS, command) for command in commands if not isinstance(command, WakeAt)]

    def advance(self, to_ms: int) -> None:
        """Let the time pass up to ``to_ms`` after the start."""
        while self.wake_ms is not None and self.wake_ms <= START_MS + to_ms:
            self.now_ms = self.wake_ms
            self.tell(Tick())
        self.now_ms = max(self.now_ms, START_MS + to_ms)

    def sent_at(self) -> list[int]:
        return [at for at, command in self.log if isinstance(command, SendAudio)]

    def granted(self) -> int:
        return sum(command.size_bytes for _, command in self.log if isinstance(command, Grant))

    def said(self, *kinds: type) -> list[tuple[int, Command]]:
        return [(at, command) for at, command in self.log if isinstance(command, kinds)]


def audio(clause: int = 0, pcm: bytes = FRAME, turn: int = 1) -> BotAudio:
    return BotAudio(turn=turn, clause=clause, first_sample=0, pcm=pcm)


def clause(number: int, text: str, spoken: bool = True, turn: int = 1) -> Clause:
    return Clause(turn=turn, clause=number, text=text, spoken=spoken)


def ended(number: int, turn: int = 1) -> AudioEnded:
    return AudioEnded(turn=turn, clause=number, samples=0)


def answer(clauses: int, turn: int = 1) -> LlmEnded:
    return LlmEnded(turn=turn, clauses=clauses, reason="stop")


def speaking(frames: int) -> Desk:
    """A desk where turn 1 has one clause of ``frames`` frames, complete."""
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "One two."), *[audio()] * frames, ended(0), answer(1))
    return desk


def test_frames_leave_at_absolute_deadlines_a_lead_ahead() -> None:
    desk = speaking(6)
    desk.advance(1_000)
    assert desk.sent_at() == [0, 0, 0, 40, 80, 120]


def test_a_turn_from_its_join_to_its_end_in_order() -> None:
    desk = speaking(4)
    desk.advance(1_000)
    assert desk.said(BotStateChanged, TtsStarted, BotStarted, ClauseSpoken, TtsStopped, BotStopped, Heard) == [
        (0, BotStateChanged(1, "thinking")),
        (0, TtsStarted(1)),
        (0, BotStateChanged(1, "speaking")),
        (0, BotStarted(1)),
        (40, ClauseSpoken(1, 0, "One two.")),
        (40, TtsStopped(1)),
        (160, BotStopped(1)),
        (160, Heard(1, 0, 8)),
        (160, BotStateChanged(1, "silent")),
    ]
    assert desk.granted() == 4 * len(FRAME)
    assert (desk.playout.underruns, desk.playout.gap_ms) == (0, 0)
    assert desk.wake_ms is None


def test_a_late_timer_does_not_shift_what_follows() -> None:
    desk = speaking(8)
    desk.now_ms = START_MS + 75
    desk.tell(Tick())
    desk.advance(1_000)
    assert desk.sent_at() == [0, 0, 0, 75, 80, 120, 160, 200]
    assert desk.playout.underruns == 0


def test_after_an_underrun_the_clock_moves_without_a_burst() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), audio())
    desk.advance(100)
    desk.tell(*[audio()] * 5)
    desk.advance(1_000)
    assert desk.sent_at() == [0, 100, 100, 100, 140, 180]
    assert (desk.playout.underruns, desk.playout.gap_ms) == (1, 60)


def test_audio_that_is_late_but_not_too_late_is_no_gap() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), audio(), audio())
    desk.advance(70)
    desk.tell(audio(), audio())
    desk.advance(1_000)
    assert desk.sent_at() == [0, 0, 70, 70]
    assert desk.playout.underruns == 0


def test_a_pause_keeps_queue_and_position_and_is_no_underrun() -> None:
    desk = speaking(6)
    desk.tell(Pause(turn=1))
    assert desk.wake_ms is None
    desk.advance(500)
    assert desk.sent_at() == [0, 0, 0]
    desk.tell(Resume(turn=1))
    desk.advance(2_000)
    assert desk.sent_at() == [0, 0, 0, 500, 500, 500]
    assert desk.playout.underruns == 0
    assert desk.said(BotStarted, BotStopped) == [(0, BotStarted(1)), (620, BotStopped(1))]


def test_audio_that_comes_in_a_pause_waits() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), Pause(turn=1), audio(), audio())
    desk.advance(200)
    assert desk.sent_at() == []
    assert desk.granted() == 0
    desk.tell(Resume(turn=1))
    assert desk.sent_at() == [200, 200]


def test_a_turn_of_which_all_was_sent_ends_in_a_pause_too() -> None:
    desk = speaking(2)
    desk.tell(Pause(turn=1))
    desk.advance(500)
    assert desk.said(Heard) == [(80, Heard(1, 0, 8))]


def test_a_cancel_drops_grants_and_tells_what_was_sent() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "Yes. "), audio(0), ended(0), clause(1, "Then one two three."), *[audio(1)] * 9, ended(1))
    desk.advance(130)
    before = len(desk.log)
    desk.tell(Cancel(fence=2, reason="speech"))
    # Three at once, then one at 40, 80 and 120 ms: the first clause, and 5 of 9 frames of the second.
    assert [command for _, command in desk.log[before:]] == [
        Grant("tts", "bot_audio", 4 * len(FRAME)),
        TtsStopped(1),
        BotStopped(1),
        Heard(1, 1, len("Then one")),
        BotStateChanged(1, "silent"),
    ]
    assert desk.granted() == 10 * len(FRAME)
    assert desk.wake_ms is None
    desk.tell(audio(1))
    assert desk.granted() == 11 * len(FRAME)


def test_marks_decide_what_was_heard() -> None:
    desk = Desk()
    desk.tell(
        AnswerOpened(1), clause(0, "One two three."), Marks(turn=1, clause=0, marks=[[0, 0], [4_000, 4]]), *[audio()] * 9, ended(0)
    )
    desk.tell(Cancel(fence=2, reason="speech"))
    # Three frames were sent: 2,880 samples.
    assert desk.said(Heard) == [(0, Heard(1, 0, 0))]


MARKS = [[0, 0], [1_920, 3], [2_000, 4], [3_900, 7], [4_000, 8], [6_000, 14]]
"""Of "One two three.": its words end with the frames 2, 5 and 7 of 8."""


def words_of(text: str, samples: int) -> Desk:
    desk = Desk()
    marks = Marks(turn=1, clause=0, marks=MARKS)
    frames = [bytes(2 * size) for size in [960] * (samples // 960) + [samples % 960]]
    desk.tell(AnswerOpened(1), clause(0, text), marks, *(audio(pcm=pcm) for pcm in frames), ended(0), answer(1))
    return desk


def test_words_are_told_when_their_last_sound_is_sent() -> None:
    desk = words_of("One two three. ", 8 * 960)
    desk.advance(1_000)
    assert desk.said(WordsSpoken, ClauseSpoken) == [
        (0, WordsSpoken(1, 0, "One two three. ", 0, 3)),
        (80, WordsSpoken(1, 0, "One two three. ", 3, 7)),
        (160, WordsSpoken(1, 0, "One two three. ", 7, 14)),
        (200, ClauseSpoken(1, 0, "One two three. ", 14)),
    ]


def test_marks_that_come_late_are_made_up_for_with_the_next_frame() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "One two three."), *[audio()] * 5)
    desk.advance(50)
    desk.tell(Marks(turn=1, clause=0, marks=MARKS))
    desk.advance(1_000)
    assert desk.said(WordsSpoken) == [(80, WordsSpoken(1, 0, "One two three.", 0, 7))]


@pytest.mark.parametrize("at_ms", range(0, 260, 20))
def test_what_was_told_is_what_was_heard_wherever_it_is_cut(at_ms: int) -> None:
    desk = words_of("One two three.", 7_000)
    desk.advance(at_ms)
    desk.tell(Cancel(fence=2, reason="speech"))
    told = [command for _, command in desk.log if isinstance(command, WordsSpoken)]
    sent = sum(len(command.pcm) // 2 for _, command in desk.log if isinstance(command, SendAudio))
    count = sum(sent >= end for end in (1_920, 3_900, 6_000))
    assert desk.said(Heard)[0][1] == Heard(1, 0, (0, 3, 7, 14)[count])
    assert (told[-1].end if told else 0) == (0, 3, 7, 14)[count]


def test_a_voice_without_marks_tells_no_words() -> None:
    desk = speaking(6)
    desk.advance(1_000)
    assert desk.said(WordsSpoken) == []


def test_a_turn_without_sound_stops_nothing_that_did_not_start() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), Cancel(fence=2, reason="text"))
    assert [command for _, command in desk.log] == [
        BotStateChanged(1, "thinking"),
        Heard(1, 0, 0),
        BotStateChanged(1, "silent"),
    ]


def test_an_answer_as_text_only_is_over_when_it_is_complete() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "One. ", spoken=False), clause(1, "Two.", spoken=False), answer(2))
    assert [command for _, command in desk.log[1:]] == [Heard(1, 1, 4), BotStateChanged(1, "silent")]


def test_an_empty_answer_is_over_at_once() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), answer(0))
    assert desk.said(Heard) == [(0, Heard(1, 0, 0))]


def test_a_clause_without_sound_is_skipped_and_what_follows_is_spoken() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), ended(0), clause(1, "b"), audio(1), ended(1), answer(2))
    desk.advance(1_000)
    assert [command for _, command in desk.said(ClauseSkipped, ClauseSpoken, Heard)] == [
        ClauseSkipped(1, 0, "a"),
        ClauseSpoken(1, 1, "b"),
        Heard(1, 1, 1),
    ]


def test_the_end_is_padded_to_whole_blocks_of_the_player() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), audio(pcm=bytes(2 * 300)), audio(pcm=bytes(2 * 50)), ended(0))
    desk.advance(1_000)
    assert sum(len(command.pcm) for _, command in desk.log if isinstance(command, SendAudio)) == 2 * 350
    desk.tell(answer(1))
    desk.advance(2_000)
    assert sum(len(command.pcm) for _, command in desk.log if isinstance(command, SendAudio)) == 2 * 384
    assert desk.granted() == 2 * 350
    assert desk.playout.underruns == 0


def test_the_next_turn_follows_without_getting_further_ahead() -> None:
    desk = speaking(4)
    desk.tell(AnswerOpened(2), clause(0, "b", turn=2), *[audio(turn=2)] * 4, ended(0, turn=2), answer(1, turn=2))
    desk.advance(1_000)
    assert desk.sent_at() == [0, 0, 0, 40, 160, 160, 160, 200]
    assert desk.said(BotStateChanged)[2:4] == [(160, BotStateChanged(1, "silent")), (160, BotStateChanged(2, "thinking"))]


def test_what_a_client_still_has_of_a_cancelled_turn_delays_the_next() -> None:
    desk = speaking(9)
    desk.tell(Cancel(fence=2, reason="text"), AnswerOpened(2), clause(0, "b", turn=2), *[audio(turn=2)] * 3)
    desk.advance(1_000)
    assert desk.sent_at() == [0, 0, 0, 40, 80, 120]


def test_frames_that_are_too_long_are_cut() -> None:
    desk = Desk()
    desk.tell(AnswerOpened(1), clause(0, "a"), audio(pcm=bytes(5_000)))
    desk.advance(1_000)
    assert [len(command.pcm) for _, command in desk.log if isinstance(command, SendAudio)] == [1_920, 1_920, 1_160]


def test_audio_of_a_clause_that_is_unknown_read_or_complete_is_granted_back() -> None:
    desk = Desk()
    desk.tell(
        AnswerOpened(1), audio(7), clause(0, "a", spoken=False), audio(0), clause(1, "b"), ended(1), audio(1), audio(1, turn=9)
    )
    assert desk.sent_at() == []
    assert desk.granted() == 4 * len(FRAME)


STEP = st.one_of(
    st.tuples(st.just("audio"), st.integers(1, 60)),
    st.tuples(st.just("clause"), st.integers(0, 1)),
    st.tuples(st.sampled_from(["ended", "answer", "pause", "resume", "cancel", "open"]), st.just(0)),
    st.tuples(st.just("wait"), st.integers(1, 300)),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60))
def test_whatever_happens_the_lead_holds_and_all_credit_returns(steps: list[tuple[str, int]]) -> None:
    desk = Desk()
    turn, count, received, at = 0, 0, 0, 0
    for kind, value in steps:
        match kind:
            case "open" | "cancel":
                turn, count = turn + 1, 0
                desk.tell(Cancel(fence=turn, reason=""), AnswerOpened(turn))
            case "clause":
                desk.tell(clause(count, "one two", bool(value), turn))
                count += 1
            case "audio":
                received += 32 * value
                desk.tell(audio(count - 1, bytes(32 * value), turn))
            case "ended":
                desk.tell(ended(count - 1, turn))
            case "answer":
                desk.tell(answer(count, turn))
            case "pause":
                desk.tell(Pause(turn=turn))
            case "resume":
                desk.tell(Resume(turn=turn))
            case "wait":
                at += value
                desk.advance(at)
    desk.tell(Cancel(fence=turn + 1, reason=""))
    assert desk.granted() == received
    assert desk.wake_ms is None
    played_until = 0.0
    for sent_at, command in desk.said(SendAudio):
        assert isinstance(command, SendAudio)
        # A frame never begins more than the lead after now; padding may follow its frame at once.
        assert played_until - sent_at <= LEAD_MS + 40
        played_until = max(played_until, sent_at) + len(command.pcm) / 48
    for number in range(1, turn + 1):
        told = [
            type(command) for _, command in desk.log if getattr(command, "turn", 0) == number and type(command) is not SendAudio
        ]
        assert told.count(Heard) == 1
        for started, stopped in ((TtsStarted, TtsStopped), (BotStarted, BotStopped)):
            assert told.count(started) == told.count(stopped) <= 1
            assert started not in told or told.index(started) < told.index(stopped)
