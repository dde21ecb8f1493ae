"""The rules of turn taking, one by one, and what holds for every sequence of events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.config import Speaking
from rtvi_actors.speaking.events import (
    WINDOW_MS,
    WINDOW_SAMPLES,
    AskEnd,
    BotStateSeen,
    CancelBot,
    Command,
    EndJudged,
    EndTurn,
    Event,
    ForwardAudio,
    MayEnd,
    PauseBot,
    RefuseRequest,
    Requested,
    ResumeBot,
    Resumed,
    SpeechWindow,
    StartTurn,
    Tick,
    TranscriptSeen,
    WakeAt,
)
from rtvi_actors.speaking.floor import MAX_REOPENED
from rtvi_actors.speaking.turn import (
    JUDGE_LIMIT_MS,
    LOG_ENTRIES,
    MAX_REQUESTS,
    THINKING_LIMIT_MS,
    TurnMachine,
)

pytestmark = pytest.mark.unit


class Talk:
    """A machine with a microphone, a clock and the timer that it asks for."""

    def __init__(self, *, ask_model: bool = False, **changes: Any) -> None:
        self.machine = TurnMachine(msgspec.convert(changes, Speaking), ask_model)
        self.now_ms = 0
        self.sample = 0
        self.wake_ms: int | None = None
        self.all: list[Command] = []
        self.ticks = 0

    def tell(self, event: Event) -> list[Command]:
        commands = self.machine.handle(event, self.now_ms)
        for command in commands:
            if isinstance(command, WakeAt):
                assert command.at_ms > self.now_ms, "a deadline that has passed must have been acted upon"
                self.wake_ms = command.at_ms
        found = [command for command in commands if not isinstance(command, WakeAt)]
        self.all += found
        return found

    def wait(self, ms: int) -> list[Command]:
        """Let time go by without a sound."""
        until, out = self.now_ms + ms, []
        while self.wake_ms is not None and self.wake_ms <= until:
            self.now_ms, self.wake_ms = self.wake_ms, None
            self.ticks += 1
            out += self.tell(Tick())
        self.now_ms = until
        return out

    def hear(self, speech: bool, windows: int = 1) -> list[Command]:
        out = []
        for _ in range(windows):
            out += self.wait(WINDOW_MS)
            self.sample += WINDOW_SAMPLES
            out += self.tell(SpeechWindow(self.sample - WINDOW_SAMPLES, speech))
        return out

    def say(self, windows: int) -> list[Command]:
        return self.hear(True, windows)

    def hush(self, windows: int) -> list[Command]:
        return self.hear(False, windows)

    def text(self, turn: int, attempt: int, text: str, final: bool = True) -> list[Command]:
        return self.tell(TranscriptSeen(turn, attempt, text, final))

    def bot(self, state: str, turn: int) -> list[Command]:
        return self.tell(BotStateSeen(state, turn))


def answering(state: str = "speaking", **changes: Any) -> Talk:
    """Turn 1 is over and the bot speaks, for a while already."""
    talk = Talk(**changes)
    talk.hush(20)
    talk.say(10)
    talk.hush(3)
    talk.text(1, 1, "What is the time?")
    talk.hush(10)
    talk.bot(state, 1)
    assert talk.all[-1] == EndTurn(1, 1, 30 * 512)
    talk.wait(2_000)
    return talk


# ------------------------------------------------------------------------------------------------------- ordinary turns


def test_one_window_of_speech_opens_nothing() -> None:
    talk = Talk()
    assert talk.say(1) + talk.hush(1) + talk.say(1) + talk.hush(1) == []


def test_speech_opens_a_turn_with_its_pre_roll() -> None:
    talk = Talk()
    talk.hush(100)
    assert talk.say(2) == [StartTurn(1, "speech"), ForwardAudio(1, 100 * 512 - 300 * 16)]


def test_pre_roll_begins_with_the_session() -> None:
    assert Talk().say(2) == [StartTurn(1, "speech"), ForwardAudio(1, 0)]


def test_pre_roll_repeats_no_speech_of_the_turn_before() -> None:
    talk = answering(long_wait_ms=200)
    talk.bot("silent", 1)
    talk.say(5)
    talk.wait(1_500)
    ended = talk.sample
    assert talk.all[-1] == EndTurn(2, 1, ended)
    talk.bot("silent", 2)
    talk.hush(1)
    assert talk.say(2)[-1] == ForwardAudio(3, ended)


def test_silence_asks_for_the_final_and_a_finished_sentence_ends_early() -> None:
    talk = Talk()
    talk.say(20)
    assert talk.hush(2) == []
    assert talk.hush(1) == [MayEnd(1, 1, 23 * 512)]
    assert talk.text(1, 1, "What is the time?") == []
    said_ms = talk.now_ms - 3 * WINDOW_MS
    assert talk.wait(said_ms + 199 - talk.now_ms) == []
    assert talk.wait(1) == [EndTurn(1, 1, 20 * 512)]


def test_a_final_behind_the_short_wait_ends_at_once() -> None:
    talk = Talk()
    talk.say(20)
    assert talk.hush(15) == [MayEnd(1, 1, 23 * 512)]
    assert talk.text(1, 1, "What is the time?") == [EndTurn(1, 1, 20 * 512)]


@pytest.mark.parametrize("text", [None, "I would like to...", ""])
def test_without_a_finished_sentence_it_takes_the_long_wait(text: str | None) -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    if text is not None:
        talk.text(1, 1, text)
    assert talk.wait(799 - 3 * WINDOW_MS) == []
    assert talk.wait(1) == [EndTurn(1, 1, 20 * 512)]


def test_speech_after_a_pause_voids_the_attempt() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "I would like to.")
    assert talk.say(1) == []
    assert talk.say(1) == [Resumed(1, 1)]
    assert talk.text(1, 1, "I would like to.") == []
    assert talk.hush(3) == [MayEnd(1, 2, 28 * 512)]
    talk.text(1, 2, "I would like to eat something.")
    assert talk.hush(4) == [EndTurn(1, 2, 25 * 512)]


def test_a_single_window_of_noise_only_delays_the_end() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(5)
    talk.text(1, 1, "What is the time?")
    assert talk.say(1) + talk.wait(40) == []  # the short wait passes meanwhile
    assert talk.hush(1) == [EndTurn(1, 1, 20 * 512)]


def test_a_final_of_a_void_attempt_ends_nothing() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.say(2)
    talk.hush(3)
    assert talk.text(1, 1, "What is the time?") + talk.hush(8) == []


def test_who_pauses_long_is_given_longer() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(10)
    talk.say(10)
    talk.hush(3)
    talk.text(1, 2, "What is the time?")
    assert talk.wait(320 - 3 * WINDOW_MS - 1) == []
    assert talk.wait(1) == [EndTurn(1, 2, 40 * 512)]


def test_who_may_have_finished_is_given_some_time() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "What is the time")
    assert talk.wait(600 - 3 * WINDOW_MS - 1) == []
    assert talk.wait(1) == [EndTurn(1, 1, 20 * 512)]


def test_a_microphone_that_falls_silent_in_mid_speech_ends_the_turn() -> None:
    talk = Talk()
    talk.say(20)
    assert talk.wait(1_499) == []
    assert talk.wait(1) == [MayEnd(1, 1, 20 * 512), EndTurn(1, 1, 20 * 512)]


def test_a_microphone_that_falls_silent_in_a_pause_changes_nothing() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    assert talk.wait(800) == [EndTurn(1, 1, 20 * 512)]


def test_a_turn_that_is_too_long_is_ended_and_the_next_begins() -> None:
    talk = Talk(max_turn_ms=1_000, when_thinking={"confirm_after_ms": 5_000, "pause_after_ms": 5_000})
    commands = talk.say(40)
    assert commands[:4] == [StartTurn(1, "speech"), ForwardAudio(1, 0), MayEnd(1, 1, 33 * 512), EndTurn(1, 1, 33 * 512)]
    assert commands[4:] == [StartTurn(2, "speech", under_bot=True, reopens=1), ForwardAudio(2, 33 * 512)]


def test_windows_that_jump_open_turns_all_the_same() -> None:
    talk = Talk()
    talk.sample = 1_000_000
    talk.say(20)
    talk.hush(30)
    talk.sample = 512  # as if the edge counted anew
    talk.text(1, 1, "")
    assert talk.say(2) == [StartTurn(2, "speech"), ForwardAudio(2, 512)]


# -------------------------------------------------------------------------------------------------------- under the bot


def test_between_the_end_and_the_edges_word_the_bot_counts_as_thinking() -> None:
    talk = Talk()
    talk.say(10)
    talk.hush(30)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=1)


def test_an_empty_final_makes_no_bot_think() -> None:
    talk = Talk()
    talk.say(10)
    talk.hush(30)
    assert talk.text(1, 1, "") == []
    assert talk.machine.idle
    assert talk.say(2)[0] == StartTurn(2, "speech")


def test_an_empty_final_that_came_before_the_end_makes_no_bot_think() -> None:
    talk = Talk()
    talk.say(10)
    talk.hush(3)
    talk.text(1, 1, "")
    assert talk.hush(30) == [EndTurn(1, 1, 10 * 512)]
    assert talk.machine.idle


def test_barge_in_pauses_at_once_and_cancels_by_speech_alone() -> None:
    talk = answering()
    opened = [StartTurn(2, "speech", under_bot=True), ForwardAudio(2, talk.sample - 300 * 16), PauseBot(1)]
    assert talk.say(2) == opened
    assert talk.say(29) == []
    assert talk.say(1) == [CancelBot(2, "barge-in")]
    assert talk.say(10) == []
    assert talk.hush(3) == [MayEnd(2, 1, talk.sample)]


def test_a_bot_that_thinks_has_settings_of_its_own() -> None:
    talk = answering("thinking")
    assert len(talk.say(2)) == 2
    assert talk.say(1) == [PauseBot(1)]
    assert talk.say(15) == []
    assert talk.say(1) == [CancelBot(2, "barge-in")]
    strict = {"start_windows": 4, "pause_after_ms": 200, "confirm_after_ms": 0}
    talk = answering("thinking", when_thinking=strict)
    assert talk.say(3) == []
    assert len(talk.say(1)) == 2
    assert talk.say(2) == []
    assert talk.say(1) == [PauseBot(1)]
    assert talk.say(100) == []
    assert talk.text(2, 0, "Stop", final=False) == [CancelBot(2, "barge-in")]


def test_interruptions_that_are_never_taken_back_cancel_at_once() -> None:
    talk = answering(when_speaking={"resume_after_ms": 0})
    assert talk.say(2)[2:] == [CancelBot(2, "barge-in")]


def test_an_interruption_may_take_several_words() -> None:
    talk = answering(when_speaking={"min_words": 3})
    talk.say(20)
    assert talk.text(2, 0, "Wait a", final=False) == []
    assert talk.text(2, 0, "Yeah, wait a minute", final=False) == [CancelBot(2, "barge-in")]


def test_words_cancel_before_the_turn_ends() -> None:
    talk = answering()
    talk.say(6)
    talk.hush(12)
    assert talk.text(2, 1, "Stop.") == [CancelBot(2, "barge-in"), EndTurn(2, 1, talk.sample - 12 * 512)]
    assert isinstance(talk.say(2)[0], StartTurn)


def test_words_of_a_partial_or_a_void_attempt_cancel_too() -> None:
    talk = answering()
    talk.say(6)
    assert talk.text(2, 0, "Stop", final=False) == [CancelBot(2, "barge-in")]


def test_a_cough_resumes_the_bot_when_the_final_is_empty() -> None:
    talk = answering()
    talk.say(6)
    talk.hush(5)
    speech_end = talk.sample - 5 * 512
    assert talk.text(2, 1, " . ") == [EndTurn(2, 1, speech_end), ResumeBot(1)]
    assert talk.text(2, 1, "late words") == []
    assert talk.say(2)[0] == StartTurn(3, "speech", under_bot=True)


def test_a_cough_resumes_the_bot_when_no_final_comes() -> None:
    talk = answering()
    talk.say(5)
    attempt_ms = talk.now_ms + 3 * WINDOW_MS
    assert talk.all[-1] == PauseBot(1)
    talk.hush(62)
    assert not isinstance(talk.all[-1], ResumeBot)
    talk.wait(attempt_ms + 2_000 - talk.now_ms)
    assert talk.all[-1] == ResumeBot(1)
    assert talk.wait(attempt_ms + 4_999 - talk.now_ms) == []
    assert talk.wait(1) == [EndTurn(2, 1, talk.sample - 62 * 512)]
    talk.bot("silent", 1)
    assert talk.machine.idle, "nobody answers a void turn"


@pytest.mark.parametrize(("text", "comes_to"), [("Stop.", CancelBot(2, "barge-in")), ("", EndTurn(2, 1, 48 * 512))])
def test_words_that_come_late_still_interrupt_the_bot(text: str, comes_to: Command) -> None:
    talk = answering()
    talk.say(5)
    talk.hush(3)
    assert talk.wait(2_500) == [ResumeBot(1)]
    assert talk.text(2, 1, text)[0] == comes_to


def test_the_bot_waits_as_long_for_words_of_a_later_attempt() -> None:
    talk = answering()
    talk.say(6)
    talk.hush(50)
    talk.say(5)
    talk.hush(3)  # the second attempt, 2,000 ms after the pause, gets as long for its words as the first
    assert talk.wait(1_999) == []
    assert talk.wait(1)[-1] == ResumeBot(1)


def test_a_short_noise_under_the_bot_pauses_nothing_and_ends_void() -> None:
    talk = answering(when_speaking={"pause_after_ms": 96})
    talk.say(2)
    talk.hush(3)
    assert talk.text(2, 1, "") == [EndTurn(2, 1, talk.sample - 3 * 512)]


def test_a_microphone_that_falls_silent_under_the_bot_is_still_transcribed() -> None:
    talk = answering()
    talk.say(6)
    sample = talk.sample
    assert talk.wait(1_500) == [MayEnd(2, 1, sample)]
    assert talk.text(2, 1, "Stop.") == [CancelBot(2, "barge-in"), EndTurn(2, 1, sample)]


def test_a_bot_that_finished_is_cancelled_all_the_same_by_words() -> None:
    talk = answering()
    talk.say(6)
    assert talk.bot("silent", 1) == []
    talk.hush(7)
    assert talk.text(2, 1, "What else is there?")[0] == CancelBot(2, "bot finished")


def test_a_bot_that_finished_is_cancelled_all_the_same_by_speech() -> None:
    talk = answering()
    talk.say(2)
    talk.bot("silent", 1)
    assert talk.say(30) == [CancelBot(2, "bot finished")]


def test_a_bot_that_finished_unpaused_hears_nothing_of_a_cough() -> None:
    talk = answering(when_speaking={"pause_after_ms": 96})
    talk.say(2)
    talk.bot("silent", 1)
    assert talk.hush(3) + talk.text(2, 1, "") == [MayEnd(2, 1, talk.sample), EndTurn(2, 1, talk.sample - 3 * 512)]
    assert talk.machine.idle, "nobody answers a void turn"


def test_a_pause_is_taken_back_even_when_the_bot_finished_under_it() -> None:
    talk = answering()
    talk.say(6)
    talk.bot("silent", 1)
    talk.hush(3)
    assert talk.text(2, 1, "")[-1] == ResumeBot(1)


def test_what_the_edge_says_of_a_cancelled_turn_is_ignored() -> None:
    talk = answering()
    talk.say(32)
    assert talk.all[-1] == CancelBot(2, "barge-in")
    assert talk.bot("speaking", 1) == []
    talk.hush(3)
    talk.text(2, 1, "")
    talk.hush(30)
    assert talk.machine.idle


def test_a_bot_that_was_taken_for_silent_does_not_talk_over_the_user() -> None:
    talk = answering()
    talk.bot("silent", 1)
    talk.say(10)
    assert talk.bot("speaking", 1) == [CancelBot(2, "user speaks")]


def test_a_lost_answer_does_not_make_the_bot_think_for_ever() -> None:
    talk = Talk()
    talk.say(10)
    talk.hush(30)
    assert talk.wait(THINKING_LIMIT_MS) == [CancelBot(2, "no answer")]
    assert talk.machine.idle
    assert talk.say(2)[0] == StartTurn(2, "speech")


def test_an_answer_that_the_edge_knows_of_may_take_its_time() -> None:
    talk = answering()
    talk.bot("thinking", 1)
    assert talk.wait(10 * THINKING_LIMIT_MS) == []
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True)


def test_a_bot_is_given_up_under_a_turn_too() -> None:
    talk = Talk()
    talk.say(10)
    talk.hush(30)
    talk.wait(THINKING_LIMIT_MS - 1_100)
    talk.say(2)
    assert talk.all[-2] == StartTurn(2, "speech", under_bot=True, reopens=1)
    assert CancelBot(2, "no answer", reopens=1) in talk.wait(2_000)
    assert EndTurn(2, 1, talk.sample) in talk.all


# --------------------------------------------------------------------------------------------------------- backchannels


def test_a_backchannel_lets_the_bot_go_on_at_once_and_comes_to_nothing() -> None:
    talk = answering()
    talk.say(10)
    assert talk.all[-1] == PauseBot(1)
    talk.hush(4)
    assert talk.text(2, 1, "Mhm.") == []
    assert talk.wait(71) == []
    assert talk.wait(1) == [ResumeBot(1)], "200 ms behind the last speech"
    assert talk.wait(599) == []
    assert talk.wait(1) == [EndTurn(2, 1, talk.sample - 4 * 512)]
    talk.bot("silent", 1)
    assert talk.machine.idle, "nobody answers it"


def test_speech_that_a_transcript_has_explained_does_not_interrupt_by_its_length() -> None:
    talk = answering()
    talk.say(25)
    assert talk.text(2, 0, "Yeah, okay.", final=False) == []
    talk.say(25)
    assert talk.text(2, 0, "Yeah, okay, right.", final=False) == []
    assert talk.say(31) == []
    assert talk.say(1) == [CancelBot(2, "barge-in")], "nothing explains this any more"


def test_a_backchannel_that_goes_on_as_a_sentence_interrupts() -> None:
    talk = answering()
    talk.say(10)
    talk.hush(7)
    assert talk.text(2, 1, "Yeah.") == [ResumeBot(1)]
    assert talk.say(2) == [Resumed(2, 1), PauseBot(1)]
    talk.say(10)
    assert talk.text(2, 1, "Yeah, but wait", final=False) == [CancelBot(2, "barge-in")]
    talk.hush(3)
    assert talk.text(2, 2, "Yeah, but wait a minute.") == []
    assert isinstance(talk.hush(4)[-1], EndTurn)


def test_the_same_word_is_an_answer_when_the_bot_had_just_finished() -> None:
    talk = answering()
    talk.say(10)
    talk.hush(7)
    assert talk.text(2, 1, "Yes.") == [ResumeBot(1)]
    talk.wait(300)
    assert talk.bot("silent", 1) == [CancelBot(2, "bot finished"), EndTurn(2, 1, talk.sample - 7 * 512)]
    assert not talk.machine.idle, "it is answered"


def test_the_same_word_is_an_answer_while_the_bot_is_silent() -> None:
    talk = answering()
    talk.bot("silent", 1)
    talk.say(10)
    talk.hush(7)
    assert talk.text(2, 1, "Yes.") == [EndTurn(2, 1, talk.sample - 7 * 512)]


def test_the_same_word_interrupts_a_bot_that_thinks_and_any_where_there_is_no_list() -> None:
    for talk in (answering("thinking"), answering(backchannels=[])):
        talk.say(10)
        assert talk.text(2, 0, "Okay", final=False) == [CancelBot(2, "barge-in")]


# -------------------------------------------------------------------------------------------------------- going on


def test_who_goes_on_behind_an_end_reopens_the_turn() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "I want a room.")
    talk.hush(10)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=1)
    talk.say(4)
    assert talk.all[-1] == PauseBot(1)
    talk.hush(3)
    assert talk.text(2, 1, "For two people.") == [CancelBot(2, "barge-in", reopens=1)]
    assert talk.hush(4) == [EndTurn(2, 1, talk.sample - 7 * 512)]
    assert talk.say(2)[0] == StartTurn(3, "speech", under_bot=True, reopens=2), "on and on"


def test_who_was_answered_before_the_words_came_does_not_go_on() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "What is the time?")
    talk.hush(6)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=1)  # too short to pause the bot
    talk.hush(3)
    talk.bot("speaking", 1)
    talk.wait(900)
    talk.bot("silent", 1)
    assert talk.text(2, 1, "Hello?")[0] == CancelBot(2, "bot finished"), "that is a message of its own"


def test_a_cough_behind_an_end_leaves_its_answer_alone() -> None:
    talk = answering("thinking")
    talk.say(4)
    talk.hush(3)
    assert talk.text(2, 1, "") == [EndTurn(2, 1, talk.sample - 3 * 512), ResumeBot(1)]


@pytest.mark.parametrize(("since_the_end_ms", "reopens"), [(900, 1), (1_100, 0)])
def test_an_end_may_be_gone_on_with_for_a_second(since_the_end_ms: int, reopens: int) -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "What is the time?")
    talk.hush(4)
    assert talk.all[-1] == EndTurn(1, 1, 20 * 512)
    talk.bot("thinking", 1)
    talk.wait(since_the_end_ms - WINDOW_MS)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=reopens)
    talk = Talk(reopen_within_ms=0)
    talk.say(20)
    talk.hush(40)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True)


@pytest.mark.parametrize(("since_the_sound_ms", "reopens"), [(200, 1), (300, 0)])
def test_who_has_heard_the_bot_does_not_go_on(since_the_sound_ms: int, reopens: int) -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "What is the time?")
    talk.hush(8)
    talk.bot("thinking", 1)
    talk.bot("speaking", 1)
    talk.wait(since_the_sound_ms - WINDOW_MS)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=reopens)


def test_as_long_as_the_words_are_not_known_they_may_be_gone_on_with() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(30)
    talk.wait(2_500)
    assert talk.say(2)[0] == StartTurn(2, "speech", under_bot=True, reopens=1)


def test_a_turn_of_no_words_is_nothing_to_go_on_with() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(30)
    talk.say(10)
    talk.hush(3)
    assert talk.text(2, 1, "Hello?") == [CancelBot(2, "barge-in", reopens=1)]
    talk.hush(5)
    assert talk.all[-1] == EndTurn(2, 1, talk.sample - 8 * 512)
    talk.text(1, 1, "")
    assert not talk.machine.idle, "the second turn has words"


def test_two_turns_of_no_words_make_no_bot_think() -> None:
    talk = Talk()
    talk.say(20)
    talk.hush(30)
    talk.say(30)
    assert talk.all[-1] == CancelBot(2, "barge-in", reopens=1)
    talk.hush(3)
    talk.text(2, 1, "")
    talk.hush(30)
    assert talk.all[-1] == EndTurn(2, 1, talk.sample - 33 * 512)
    assert not talk.machine.idle, "the first turn may have words"
    assert talk.text(1, 1, "") == []
    assert talk.machine.idle


def test_words_that_become_one_message_are_bounded() -> None:
    talk = Talk()
    for turn in range(1, 2 * MAX_REOPENED):
        talk.say(30)
        talk.hush(3)
        talk.text(turn, 1, "And then.")
        talk.hush(20)
    reopens = [command.reopens for command in talk.all if isinstance(command, StartTurn)]
    assert reopens[:MAX_REOPENED] == list(range(MAX_REOPENED))
    assert reopens[MAX_REOPENED] == 0


# ------------------------------------------------------------------------------------------------------ is it the end


def asked() -> Talk:
    """The model was asked whether it was the end, 96 ms behind the last speech."""
    talk = Talk(ask_model=True)
    talk.say(20)
    talk.hush(3)
    talk.say(2)
    talk.hush(3)
    assert talk.text(1, 2, "What is the time?") == [AskEnd(1, 2, "What is the time?", "", (96,))]
    return talk


@pytest.mark.parametrize(("probability", "wait_ms"), [(1.0, 200), (0.5, 600), (0.0, 800), (None, 200)])
def test_a_model_says_how_long_to_wait(probability: float | None, wait_ms: int) -> None:
    talk = asked()
    talk.tell(EndJudged(1, 2, probability))
    assert talk.wait(wait_ms - 3 * WINDOW_MS - 1) == []
    assert talk.wait(1) == [EndTurn(1, 2, talk.sample - 3 * 512)]


def test_a_model_has_100_ms_then_the_rules_judge() -> None:
    talk = Talk(ask_model=True)
    talk.say(20)
    talk.hush(12)
    talk.text(1, 1, "What is the time?")
    assert talk.wait(JUDGE_LIMIT_MS - 1) == []
    assert talk.wait(1) == [EndTurn(1, 1, 20 * 512)]
    assert talk.tell(EndJudged(1, 1, 0.0)) == []


def test_a_verdict_on_a_void_attempt_is_ignored() -> None:
    talk = asked()
    talk.say(2)
    talk.hush(3)
    talk.tell(EndJudged(1, 2, 1.0))
    assert talk.wait(800 - 3 * WINDOW_MS - 1) == []
    assert talk.text(1, 3, "") == [], "of no words nobody is asked"


def test_a_model_is_asked_of_the_whole_message() -> None:
    talk = Talk(ask_model=True)
    talk.say(20)
    talk.hush(3)
    talk.text(1, 1, "I want a room.")
    talk.hush(8)
    talk.say(6)
    talk.hush(3)
    assert talk.text(2, 1, "For two.")[-1] == AskEnd(2, 1, "I want a room. For two.", "", ())


# ------------------------------------------------------------------------------------------------------------- requests


def test_typed_text_in_mid_sentence_joins_what_was_said() -> None:
    talk = Talk()
    talk.say(20)
    assert talk.tell(Requested("r1", "text", True)) == [
        MayEnd(1, 1, talk.sample),
        EndTurn(1, 1, talk.sample),
        CancelBot(2, "text", reopens=1),
        StartTurn(2, "text", "r1", reopens=1),
    ]
    assert talk.hush(3) + talk.text(1, 1, "A room for") == []


def test_typed_text_under_the_bot_takes_the_speech_along_that_may_be_more_than_a_cough() -> None:
    talk = answering()
    talk.say(6)
    assert talk.tell(Requested("r1", "text", True)) == [
        CancelBot(2, "text"),
        MayEnd(2, 1, talk.sample),
        EndTurn(2, 1, talk.sample),
        CancelBot(3, "text", reopens=2),
        StartTurn(3, "text", "r1", reopens=2),
    ]


@pytest.mark.parametrize("text", ["", "Mhm."])
def test_typed_text_leaves_out_what_was_none(text: str) -> None:
    talk = answering()
    talk.say(6)
    talk.hush(3)
    talk.text(2, 1, text)
    commands = talk.tell(Requested("r1", "text", True))
    assert [command for command in commands if not isinstance(command, EndTurn | ResumeBot)] == [
        CancelBot(3, "text"),
        StartTurn(3, "text", "r1"),
    ]


def test_who_speaks_on_after_typing_opens_a_turn_of_the_speech_that_follows() -> None:
    talk = answering()
    talk.say(6)
    ended = talk.sample
    talk.tell(Requested("r1", "text", True))
    assert talk.say(1) == []
    assert talk.say(1) == [StartTurn(4, "speech", under_bot=True), ForwardAudio(4, ended)]


def test_a_text_of_the_bots_own_waits_for_silence() -> None:
    talk = answering()
    assert talk.tell(Requested("r1", "say", False)) == []
    talk.say(2)
    talk.bot("silent", 1)
    talk.hush(3)
    ended = talk.text(2, 1, "")
    assert ended == [EndTurn(2, 1, talk.sample - 3 * 512), ResumeBot(1), StartTurn(3, "say", "r1")]
    assert talk.say(2)[0] == StartTurn(4, "speech", under_bot=True)


def test_requests_are_served_one_after_another() -> None:
    talk = Talk()
    assert talk.tell(Requested("r1", "say", False)) == [StartTurn(1, "say", "r1")]
    assert talk.tell(Requested("r2", "tool", False)) == []
    assert talk.tell(Requested("r3", "say", False)) == []
    assert talk.bot("speaking", 1) == []
    assert talk.bot("silent", 1) == [StartTurn(2, "tool", "r2")]
    assert talk.bot("silent", 1) == []
    assert talk.bot("silent", 2) == [StartTurn(3, "say", "r3")]


def test_requests_beyond_the_bound_are_refused() -> None:
    talk = answering()
    for number in range(MAX_REQUESTS):
        assert talk.tell(Requested(f"r{number}", "say", False)) == []
    (refused,) = talk.tell(Requested("one more", "say", False))
    assert isinstance(refused, RefuseRequest)
    assert refused.request == "one more"


# ------------------------------------------------------------------------------------------------------------- the log


def test_the_log_repeats_a_conversation() -> None:
    talk = answering()
    talk.say(20)
    talk.hush(40)
    log = talk.machine.log
    again = TurnMachine(Speaking())
    assert [tuple(again.handle(entry.event, entry.now_ms)) for entry in log] == [entry.commands for entry in log]


def test_the_log_is_bounded() -> None:
    talk = Talk()
    talk.hush(LOG_ENTRIES + 10)
    assert len(talk.machine.log) == LOG_ENTRIES


# --------------------------------------------------------------------------------------------------- what always holds

TEXTS = st.sampled_from(["", " ", ".", "Stop.", "Mhm.", "Yeah, okay", "I would like to...", "What is the time?"])
STEPS = st.one_of(
    st.tuples(st.just("say"), st.integers(1, 25)),
    st.tuples(st.just("hush"), st.integers(1, 40)),
    st.tuples(st.just("wait"), st.sampled_from([1, 50, 500, 1_500, 3_000, 40_000])),
    st.tuples(st.just("jump"), st.integers(-100_000, 100_000)),
    st.tuples(st.just("text"), st.integers(-1, 1), st.integers(-1, 1), TEXTS, st.booleans()),
    st.tuples(st.just("bot"), st.sampled_from(["silent", "thinking", "speaking", "odd"]), st.integers(-2, 1)),
    st.tuples(st.just("judge"), st.integers(-1, 0), st.sampled_from([None, 0.0, 0.5, 1.0])),
    st.tuples(st.just("ask"), st.sampled_from(["text", "say", "tool"]), st.booleans()),
)


class Checked(Talk):
    """Checks every command against what was said before."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(ask_model=True, **changes)
        self.turn = 0
        self.ended: set[int] = set()
        """Turns of speech that ended, and were not void."""
        self.under_bot: set[int] = set()
        self.attempt = 0
        self.fence = 0
        self.open: set[int] = set()
        self.paused: int | None = None
        self.asked = 0
        self.answered = 0

    def tell(self, event: Event) -> list[Command]:
        commands = super().tell(event)
        for command in commands:
            self.check(command)
        if not self.machine.idle:
            assert self.wake_ms is not None, "something waits and no Tick was asked for"
            assert not self.open or self.wake_ms - self.now_ms <= 30_000
        return commands

    def check(self, command: Command) -> None:
        match command:
            case StartTurn(turn, source, _, under_bot, reopens):
                assert turn > self.turn
                assert not reopens or under_bot or source == "text"
                self.under_bot |= {turn} if under_bot else set()
                assert not self.open, "a turn was started inside another"
                self.turn, self.attempt = turn, 0
                if source == "speech":
                    self.open.add(turn)
                    assert under_bot or self.paused is None
                else:
                    self.answered += 1
            case ForwardAudio(turn, from_sample):
                assert turn in self.open
                assert from_sample >= 0
            case MayEnd(turn, attempt, _):
                assert turn in self.open
                assert attempt == self.attempt + 1
                self.attempt = attempt
            case Resumed(turn, attempt):
                assert turn in self.open
                assert attempt == self.attempt
            case EndTurn(turn, attempt, _):
                assert turn in self.open
                assert attempt == self.attempt > 0
                self.open.discard(turn)
                if turn not in self.under_bot or self.fence >= turn:
                    self.ended.add(turn)
            case AskEnd(turn, attempt, text, _, _):
                assert (turn, attempt) == (max(self.open), self.attempt)
                assert text.strip()
            case PauseBot(turn):
                assert self.paused is None
                assert self.fence <= turn < self.turn
                self.paused = turn
            case ResumeBot(turn):
                assert turn == self.paused
                self.paused = None
            case CancelBot(fence, _, reopens):
                assert fence > self.fence
                assert not reopens or reopens in self.ended, "only what was said can be gone on with"
                assert fence >= self.turn
                self.fence, self.paused = fence, None
                assert not self.open or min(self.open) >= fence, "what the user is saying is not thrown away"
            case RefuseRequest():
                self.answered += 1

    def step(self, step: tuple) -> None:
        match step:
            case ("say", windows):
                self.say(windows)
            case ("hush", windows):
                self.hush(windows)
            case ("wait", ms):
                self.wait(ms)
            case ("jump", samples):
                self.sample = max(0, self.sample + samples)
            case ("text", turn, attempt, text, final):
                self.text(max(0, self.turn + turn), max(0, self.attempt + attempt), text, final)
            case ("judge", attempt, probability):
                self.tell(EndJudged(self.turn, max(0, self.attempt + attempt), probability))
            case ("bot", state, turn):
                self.bot(state, max(0, self.turn + turn))
            case ("ask", source, interrupt):
                self.asked += 1
                self.tell(Requested(f"r{self.asked}", source, interrupt))


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=30),
    start_windows=st.integers(1, 4),
    silence_windows=st.integers(1, 12),
    max_turn_ms=st.sampled_from([1, 400, 120_000]),
    pause_after_ms=st.sampled_from([1, 64, 900]),
    resume_after_ms=st.sampled_from([0, 2_000]),
    reopen_within_ms=st.sampled_from([0, 1_000]),
    with_audio=st.booleans(),
)
def test_no_sequence_of_events_leaves_a_turn_open_or_the_machine_stuck(
    steps: list,
    start_windows: int,
    silence_windows: int,
    max_turn_ms: int,
    pause_after_ms: int,
    resume_after_ms: int,
    reopen_within_ms: int,
    with_audio: bool,
) -> None:
    rules = {"start_windows": start_windows, "pause_after_ms": pause_after_ms, "resume_after_ms": resume_after_ms}
    talk = Checked(
        start_windows=start_windows,
        silence_windows=silence_windows,
        max_turn_ms=max_turn_ms,
        reopen_within_ms=reopen_within_ms,
        when_thinking=rules,
        when_speaking=rules,
    )
    for step in steps:
        talk.step(step)
    # Time goes on: with a silent microphone that still sends, or with one that does not.
    if with_audio:
        talk.hush(5_000 // WINDOW_MS)
    talk.wait(7_000)
    assert not talk.open
    assert talk.paused is None
    # A bot that never answers or never ends does not hold it up for good.
    talk.wait((MAX_REQUESTS + 1) * THINKING_LIMIT_MS + 1_800_000)
    assert talk.machine.idle
    assert talk.answered == talk.asked
    assert talk.ticks < 2_000
    before = talk.turn
    talk.hush(1)
    talk.say(start_windows)
    assert talk.turn == before + 1
    assert any(isinstance(command, StartTurn) and command.source == "speech" for command in talk.all[-4:])


def test_a_machine_that_goes_on_for_another_counts_on() -> None:
    machine = TurnMachine(Speaking(), last_turn=7)
    (begun,) = [command for command in machine.handle(Requested("r", "text", False), 0) if isinstance(command, StartTurn)]
    assert begun.turn == 8
