from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.stt.interims import (
    Agreement,
    Answered,
    Ask,
    Failed,
    FinalAsked,
    Heard,
    Interims,
    Opened,
    PartTaken,
    SpeechGoesOn,
    Tell,
    Withdraw,
)

pytestmark = pytest.mark.unit

MS = 16
"""Samples."""
PIECE_MS = 32
LOUD, QUIET = 2_000.0, 20.0


class User:
    """Talks in pieces of 32 ms, in real time."""

    def __init__(self, interim_ms: int = 500) -> None:
        self.interims = Interims(interim_ms)
        self.now_ms = 10_000
        self.length = 0

    def open(self, under_bot: bool = False) -> None:
        """300 ms of pre-roll and the two windows that opened the turn come at once."""
        self.do(Opened(under_bot))
        for number in range(11):
            self.hear(LOUD if number > 8 else QUIET)

    def do(self, event):
        return self.interims.handle(event, self.now_ms)

    def hear(self, loudness: float):
        self.length += PIECE_MS * MS
        return self.do(Heard(self.length, loudness))

    def talk(self, ms: int, loudness: float = LOUD):
        """All commands, each with the time since now."""
        began_ms, commands = self.now_ms, []
        for _ in range(ms // PIECE_MS):
            self.now_ms += PIECE_MS
            commands += [(self.now_ms - began_ms, command) for command in self.hear(loudness)]
        return commands

    def until_asked(self, limit_ms: int = 5_000) -> tuple[int, Ask]:
        began_ms = self.now_ms
        while self.now_ms < began_ms + limit_ms:
            for _, command in self.talk(PIECE_MS):
                assert isinstance(command, Ask)
                return self.now_ms - began_ms, command
        raise AssertionError("nothing was asked for")

    def answer(self, text: str, after_ms: int = 0):
        self.talk(after_ms)
        return self.do(Answered(text, "en"))


def told(commands) -> list[str]:
    return [command.text for command in commands if isinstance(command, Tell)]


# ---------------------------------------------------------------------------------------------------------- when to ask


def test_the_first_one_comes_after_the_pace_and_has_everything():
    user = User()
    user.open()
    at_ms, ask = user.until_asked()
    assert at_ms == 512
    assert ask == Ask(0, user.length)


def test_under_the_bot_it_comes_with_300_ms_of_speech():
    user = User()
    user.open(under_bot=True)
    at_ms, _ = user.until_asked()
    assert at_ms == 320 - 64, "the windows that opened the turn count, the pre-roll does not"


def test_it_comes_soon_under_the_bot_whichever_socket_is_faster():
    user = User()
    user.hear(LOUD)
    user.do(Opened(under_bot=True))
    assert user.until_asked()[0] == 288


def test_only_one_is_in_flight_and_the_next_comes_at_its_pace():
    user = User()
    user.open()
    user.until_asked()
    assert user.talk(1_984) == []
    user.now_ms -= 1_984  # it took no time
    user.answer("One.")
    assert user.until_asked()[0] == 512


def test_slow_ones_are_spaced_out():
    user = User()
    user.open()
    user.until_asked()
    user.answer("One.", after_ms=960)
    assert user.until_asked()[0] == 3 * 960 - 960


def test_nothing_is_asked_for_in_a_silence_and_little_is_not_decoded():
    user = User()
    user.open()
    user.talk(224)
    assert user.talk(4_000, QUIET) == [], "less than 300 ms of speech"
    assert user.until_asked()[0] == PIECE_MS
    user.answer("One.")
    assert user.talk(4_000, QUIET) == []
    assert user.until_asked()[0] == PIECE_MS, "due for long, and loud again"


def test_a_final_withdraws_it_and_stops_them_until_the_user_goes_on():
    user = User()
    user.open()
    user.until_asked()
    assert user.do(FinalAsked()) == [Withdraw()]
    assert user.do(FinalAsked()) == []
    assert user.talk(4_000) == []
    assert user.do(SpeechGoesOn()) == []
    user.until_asked()


def test_one_that_failed_is_only_missed():
    user = User()
    user.open()
    user.until_asked()
    user.talk(4_000)
    assert user.do(Failed()) == []
    assert user.until_asked()[0] == 512


# ----------------------------------------------------------------------------------------------------------- long turns


def test_a_long_turn_is_closed_at_a_quiet_place_and_goes_on_behind_it():
    user = User()
    user.open()
    user.until_asked()
    user.answer("word " * 3)
    user.talk(5_600)
    user.answer("")  # whatever was in flight
    user.talk(320, QUIET)
    quiet = (user.length - 320 * MS, user.length)
    user.talk(2_000)
    user.answer("")
    _, ask = user.until_asked()
    assert ask.first == 0
    assert quiet[0] < ask.last < quiet[1]
    assert user.answer("All that was said so far.") == [], "words behind the cut were told already"
    _, rest = user.until_asked()
    assert (rest.first, rest.last) == (ask.last, user.length)
    assert told(user.answer("And this.")) == ["All that was said so far. And this"]


def test_no_request_is_longer_than_the_short_window_takes():
    user = User()
    user.open()
    words, asked = 0, []
    for _ in range(1_500):
        for _, command in user.talk(PIECE_MS):
            if isinstance(command, Ask):
                asked.append(command)
                words += 1
                user.answer(f"word{words}")
    assert max(ask.last - ask.first for ask in asked) <= 8_600 * MS
    assert asked[-1].first > 30_000 * MS
    firsts = [ask.first for ask in asked]
    assert firsts == sorted(firsts)


def test_what_was_taken_as_a_part_is_not_asked_for_again():
    user = User()
    user.open()
    user.until_asked()
    first = user.answer("It began so.")
    assert told(first) == ["It began so"]
    user.until_asked()
    assert user.do(PartTaken(user.length - 100)) == [Withdraw()]
    assert user.do(PartTaken(50)) == []
    _, ask = user.until_asked()
    assert ask.last == user.length
    assert 300 * MS <= ask.last - ask.first <= 340 * MS
    assert told(user.answer("And went on.")) == ["It began so. And went on"]


# --------------------------------------------------------------------------------------------------------- what to show


def shown(*texts: str) -> list[str]:
    """What is told of a turn whose interims are ``texts``."""
    user, out = User(), []
    user.open()
    for text in texts:
        user.until_asked()
        out += told(user.answer(text))
    return out


def test_what_is_told_is_the_newest_without_the_stop_that_the_model_puts_behind_a_fragment():
    assert shown("He was.", "He was not...", "He was not ill-") == ["He was", "He was not", "He was not ill"]


def test_the_same_is_told_once_and_nothing_never():
    assert shown("", " ... ", "Well.", "Well", "") == ["Well"]


def test_what_models_make_up_is_not_told():
    assert shown("Thank you.", "Thanks for watching!", "you", "Thank you for the room.") == ["Thank you for the room"]


def test_words_that_two_agree_on_stay():
    assert shown("And mister John", "and Mr. John Dash", "And Mr. John Dashwood had", "Ant Mister Jon Dashwood had then") == [
        "And mister John",
        "and Mr. John Dash",
        "and Mr. John Dashwood had",
        "and Mr. John Dashwood had then",
    ]


def test_the_last_word_is_never_stable():
    agreement = Agreement()
    for text in ("ill disp", "ill disp", "ill disposed young"):
        agreement.add(text.split())
    assert agreement.shown == ["ill", "disposed", "young"]


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        ("one two three four five six", "one two three four five six"),
        ("oh one two three four five six", "one two three four five six"),
        ("two three four five six", "one two three four five six"),
        ("something else", "one two three"),
        ("one two free four five", "one two three four five"),
        ("three four", "one two three four"),
    ],
)
def test_the_tail_begins_behind_the_stable_words_even_where_they_moved(newest: str, expected: str):
    agreement = Agreement()
    for text in ("one two three four", "one two three four", newest):
        agreement.add(text.split())
    assert agreement.shown == expected.split()


def test_a_word_that_is_said_twice_is_shown_twice():
    agreement = Agreement()
    for text in ("five five", "five five five", "five five five"):
        agreement.add(text.split())
    assert agreement.shown == ["five"] * 3


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c."]), max_size=6), max_size=12))
def test_stable_words_never_change(hypotheses):
    agreement, stable = Agreement(), []
    for words in hypotheses:
        agreement.add(words)
        assert agreement.shown[: len(stable)] == stable
        assert agreement._stable >= len(stable)
        stable = agreement.shown[: agreement._stable]
