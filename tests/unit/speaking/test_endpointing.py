import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.config import Speaking
from rtvi_actors.speaking.endpointing import FINISHED as SURE
from rtvi_actors.speaking.endpointing import UNCLEAR as PERHAPS
from rtvi_actors.speaking.endpointing import UNFINISHED as NO
from rtvi_actors.speaking.endpointing import has_words, how_finished, wait_ms

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
    "I want room f",
    "Unless it rains.",
    "5.",
    "Room 5 of f-",
    "I was thinking um.",
    "I want a room,",
    "I want a room:",
    "Two.",
    "Yes,",
    "Yes...",
    "Good morning, I.",
    "If I stay three nights.",
    "That is fine. When I come back.",
    "And?",
    "He was not.",
]

UNCLEAR = [
    "I want a room",
    "Seven of clubs",
    "Hey.",
    "Paris.",
    "Two nights.",
    "Had he married a more amiable woman?",
    "Had you asked.",
]


@pytest.mark.parametrize("text", FINISHED)
def test_a_speaker_may_stop_here(text: str) -> None:
    assert how_finished(text) == SURE


@pytest.mark.parametrize("text", UNFINISHED)
def test_nobody_stops_here(text: str) -> None:
    assert how_finished(text) == NO


@pytest.mark.parametrize("text", UNCLEAR)
def test_who_knows_whether_anybody_stops_here(text: str) -> None:
    assert how_finished(text) == PERHAPS


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("Ich möchte ein Zimmer und.", SURE),
        ("Ja.", SURE),
        ("Ja", NO),
        ("Ein Zimmer", PERHAPS),
        ("Ja, ...", NO),
        ("はい。", SURE),
        ("Ja,", NO),
    ],
)
def test_other_languages_are_judged_by_their_punctuation(text: str, finished: float) -> None:
    assert how_finished(text, "de-DE") == finished


def test_english_is_meant_by_its_code_too() -> None:
    assert how_finished("I want to go and.", "en-US") == NO


@pytest.mark.parametrize(
    ("probability", "longest_pause_ms", "expected"),
    [
        (None, 0, 800),
        (0.0, 0, 800),
        (0.25, 0, 700),
        (0.5, 0, 600),
        (0.75, 0, 400),
        (1.0, 0, 200),
        (1.0, 100, 200),
        (1.0, 400, 400),
        (0.5, 400, 600),
        (1.0, 5_000, 800),
        (0.0, 5_000, 800),
    ],
)
def test_who_pauses_long_is_given_longer(probability: float | None, longest_pause_ms: int, expected: int) -> None:
    assert wait_ms(probability, Speaking(), longest_pause_ms=longest_pause_ms) == expected


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 100_000))
def test_a_likelier_end_is_waited_for_no_longer(one: float, other: float, longest_pause_ms: int) -> None:
    settings = Speaking(short_wait_ms=150, long_wait_ms=700)
    less, more = (wait_ms(max(one, other), settings), wait_ms(min(one, other), settings))
    assert 150 <= less <= more <= 700
    assert wait_ms(one, settings, longest_pause_ms=longest_pause_ms) <= 700


@given(st.text(max_size=60), st.sampled_from(["", "en", "de"]))
def test_every_text_is_judged(text: str, language: str) -> None:
    assert how_finished(text, language) in (SURE, PERHAPS, NO)


@pytest.mark.parametrize(("text", "words"), [("", False), (" .", False), ("?!…", False), ("a", True), ("10", True), ("はい", True)])
def test_words_are_more_than_punctuation(text: str, words: bool) -> None:
    assert has_words(text) is words


def test_a_whole_sentence_proves_less_where_the_speech_model_doubts_its_end():
    text = "How do you marry the more amiable?"
    assert how_finished(text) == how_finished(text, sentence_end=0.9) == SURE
    assert how_finished(text, sentence_end=0.5) == PERHAPS
    assert PERHAPS < how_finished(text, sentence_end=0.66) < SURE


def test_no_end_that_was_heard_makes_half_a_sentence_whole():
    assert how_finished("I want to go to the", sentence_end=1.0) == NO
    assert how_finished("Unless it rains.", sentence_end=1.0) == NO


def test_a_sentence_whose_end_was_heard_needs_no_comma():
    text = "Had he asked me I would have come."
    assert how_finished(text) == how_finished(text, sentence_end=0.8) == PERHAPS
    assert how_finished(text, sentence_end=0.95) == SURE


@given(st.sampled_from(FINISHED + UNFINISHED), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_certainty_never_makes_an_end_less_likely(text, one, other):
    less, more = sorted((one, other))
    assert how_finished(text, sentence_end=less) <= how_finished(text, sentence_end=more)
