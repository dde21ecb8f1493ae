import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.config import Speaking
from rtvi_actors.speaking.endpointing import has_words, reads_as_finished, wait_ms

pytestmark = pytest.mark.unit

FINISHED = [
    "Yes.",
    "no",
    "Okay, thanks.",
    "Yes. Thank you!",
    "Stop.",
    "Hello.",
    "Never mind.",
    "I don’t know.",  # noqa: RUF001
    "What is the capital of France?",
    "What is it for?",
    "Where are you from?",
    "Really?",
    "Ten of clubs.",
    "He was not an ill-disposed young man.",
    "Had he married a more amiable woman, he might have been made still more respectable than he was.",
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do for them.",
    "Turn the light on.",
    "Please come in.",
    "Yes, I think it is.",
    "If I stay three nights, it is cheaper.",
    'He said "I am tired."',
    "Wake me up!",
    "Of course not.",
]

UNFINISHED = [
    "",
    "  ",
    ".",
    "...",
    "I would like to...",
    "I would like to…",
    "I would like to book a room and.",
    "I would like to book a room, and",
    "I would like the.",
    "We want to travel to.",
    "I am here because.",
    "My name is.",
    "The price of a room would.",
    "It belongs to my.",
    "I want to go there with a.",
    "I was thinking um.",
    "I want a room,",
    "I want a room:",
    "I want a room",
    "Two.",
    "Hey.",
    "Yes,",
    "Yes...",
    "Good morning, I.",
    "If I stay three nights.",
    "That is fine. When I come back.",
    "And?",
    "He was not.",
]


@pytest.mark.parametrize("text", FINISHED)
def test_a_speaker_may_stop_here(text: str) -> None:
    assert reads_as_finished(text)


@pytest.mark.parametrize("text", UNFINISHED)
def test_nobody_stops_here(text: str) -> None:
    assert not reads_as_finished(text)


@pytest.mark.parametrize(
    ("text", "finished"),
    [("Ich möchte ein Zimmer und.", True), ("Ja.", True), ("Ja", False), ("Ja, ...", False), ("はい。", True), ("Ja,", False)],
)
def test_other_languages_are_judged_by_their_punctuation(text: str, finished: bool) -> None:
    assert reads_as_finished(text, "de-DE") is finished


def test_english_is_meant_by_its_code_too() -> None:
    assert not reads_as_finished("I want to go and.", "en-US")


@pytest.mark.parametrize(
    ("text", "longest_pause_ms", "expected"),
    [
        (None, 0, 800),
        ("I would like a", 0, 800),
        ("I would like a room.", 0, 200),
        ("I would like a room.", 100, 200),
        ("I would like a room.", 400, 600),
        ("I would like a room.", 5_000, 800),
        ("I would like a", 5_000, 800),
    ],
)
def test_who_pauses_long_is_given_longer(text: str | None, longest_pause_ms: int, expected: int) -> None:
    assert wait_ms(text, Speaking(), longest_pause_ms=longest_pause_ms) == expected


@given(st.text(max_size=60), st.integers(0, 100_000), st.sampled_from(["", "en", "de"]))
def test_every_wait_lies_between_the_two(text: str, longest_pause_ms: int, language: str) -> None:
    settings = Speaking(short_wait_ms=150, long_wait_ms=700)
    assert 150 <= wait_ms(text, settings, longest_pause_ms=longest_pause_ms, language=language) <= 700


@pytest.mark.parametrize(("text", "words"), [("", False), (" .", False), ("?!…", False), ("a", True), ("10", True), ("はい", True)])
def test_words_are_more_than_punctuation(text: str, words: bool) -> None:
    assert has_words(text) is words
