# ruff: noqa: RUF001 (phonemes look like letters)
from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.tts.word_sounds import WordSound, word_sounds

pytestmark = pytest.mark.unit

READ = {
    "$1,000": "one thousand dollars",
    "$5": "five dollars",
    "10:30": "ten thirty",
    "well-known": "well known",
    "Dr.": "Dr.",
    "e.g.": "e.g.",
    "😀": "",
    "—": "",
    "&": "and",
    "**café**": "café",
    "(twice).": "twice.",
}
ALONE = {
    "of": "ʌv",
    "the": "ðə",
    "in": "ˈɪn",
    "I": "ˈaɪ",
    "am": "æm",
    "have": "hˈæv",
    "been": "bˌɪn",
    "for": "fɔːɹ",
    "a": "ˈeɪ",
    "room": "ɹˈuːm",
    "bit": "bˈɪt",
    "to": "tuː",
    "be": "bˈiː",
    "one": "wˌʌn",
}


def placed(text: str, read: str, phonemes: str) -> list[tuple[str, str]]:
    sounds = word_sounds(text, read, phonemes, lambda word: READ.get(word, word), lambda word: ALONE.get(word, word))
    return [(text[sound.begin : sound.end], phonemes[sound.first : sound.last]) for sound in sounds]


def test_as_many_words_as_runs_of_phonemes() -> None:
    assert placed("How are you?", "How are you?", "hˈaʊ ɑːɹ juː?") == [("How", "hˈaʊ"), ("are", "ɑːɹ"), ("you?", "juː")]


@pytest.mark.parametrize(
    ("text", "phonemes", "expected"),
    [
        ("of the room", "ʌvðə ɹˈuːm", ["ʌv", "ðə", "ɹˈuːm"]),
        ("room of the", "ɹˈuːm ʌvðə", ["ɹˈuːm", "ʌv", "ðə"]),
        ("I am in the room", "aɪɐm ɪnðə ɹˈuːm", ["aɪ", "ɐm", "ɪn", "ðə", "ɹˈuːm"]),
        ("I have been", "aɪ hɐvbɪn", ["aɪ", "hɐv", "bɪn"]),
        ("room for a bit", "ɹˈuːm fɚɹə bˈɪt", ["ɹˈuːm", "fɚɹ", "ə", "bˈɪt"]),
        ("to be in", "təbi ɪn", ["tə", "bi", "ɪn"]),
        ("of the", "ʌvðə", ["ʌv", "ðə"]),
    ],
)
def test_words_that_are_pronounced_as_one(text: str, phonemes: str, expected: list[str]) -> None:
    assert placed(text, text, phonemes) == list(zip(text.split(), expected, strict=True))


@pytest.mark.parametrize(
    ("text", "read", "phonemes", "expected"),
    [
        ("is $1,000 for", "is one thousand dollars for", "ɪz wˈʌn θˈaʊzənd dˈɑːlɚz fɔːɹ", ["ɪz", "wˈʌn θˈaʊzənd dˈɑːlɚz", "fɔːɹ"]),
        ("at 10:30 sharp", "at ten thirty sharp", "æt tˈɛn θˈɜːɾi ʃˈɑːɹp", ["æt", "tˈɛn θˈɜːɾi", "ʃˈɑːɹp"]),
        ("a well-known **café** of", "a well known café of", "ɐ wˈɛl nˈoʊn kæfˈeɪ ʌv", ["ɐ", "wˈɛl nˈoʊn", "kæfˈeɪ", "ʌv"]),
        ("see e.g. Dr. No", "see e.g. Dr. No", "sˈiː ˈiː.dʒˈiː. dˈɑːktɚ. nˈoʊ", ["sˈiː", "ˈiː.dʒˈiː", "dˈɑːktɚ", "nˈoʊ"]),
        ("room & bit", "room and bit", "ɹˈuːm ænd bˈɪt", ["ɹˈuːm", "ænd", "bˈɪt"]),
    ],
)
def test_words_that_are_read_as_other_words(text: str, read: str, phonemes: str, expected: list[str]) -> None:
    assert placed(text, read, phonemes) == list(zip(text.split(), expected, strict=True))


def test_words_without_a_sound_have_no_place() -> None:
    assert placed("😀 Hello — you 😀", "Hello you", "həlˈoʊ juː") == [("Hello", "həlˈoʊ"), ("you", "juː")]
    assert placed("😀", "", "") == []


def test_words_that_are_read_in_another_order_are_one_group() -> None:
    text, read, phonemes = "raised $5 million in", "raised five million dollars in", "ɹˈeɪzd fˈaɪv mˈɪliən dˈɑːlɚz ɪn"
    assert placed(text, read, phonemes) == [("raised", "ɹˈeɪzd"), ("$5 million", "fˈaɪv mˈɪliən dˈɑːlɚz"), ("in", "ɪn")]


def test_what_is_read_from_two_words_together_is_one_group() -> None:
    # Nothing of it is what the words are read as alone.
    assert placed("a xx yy of", "a p q r of", "ɐ pˈiː kjˈuː ˈɑːɹ ʌv") == [("a", "ɐ"), ("xx yy", "pˈiː kjˈuː ˈɑːɹ"), ("of", "ʌv")]


def test_what_is_read_between_words_belongs_to_the_one_before() -> None:
    assert placed("is -5 now", "is minus -5 now", "ɪz mˈaɪnəs fˈaɪv nˈaʊ") == [
        ("is", "ɪz mˈaɪnəs"),
        ("-5", "fˈaɪv"),
        ("now", "nˈaʊ"),
    ]


def test_the_same_words_again_and_again_are_not_mixed_up() -> None:
    text = " ".join(["of the in a room for a bit"] * 4)
    phonemes = " ".join(["ʌvðɪ ɪn ɐ ɹˈuːm fɚɹə bˈɪt"] * 4)
    expected = ["ʌv", "ðɪ", "ɪn", "ɐ", "ɹˈuːm", "fɚɹ", "ə", "bˈɪt"] * 4
    assert placed(text, text, phonemes) == list(zip(text.split(), expected, strict=True))


def test_what_is_long_and_nothing_like_its_phonemes_ends_together() -> None:
    text = " ".join(["w" * 40] * 8)
    assert placed(text, text, "dˈʌ bəl juː") == [("w" * 40, "dˈʌ bəl juː")]
    (sound,) = word_sounds(text, text, "dˈʌ bəl juː", str, str)
    assert sound.end == len(text)


def test_punctuation_parts_what_is_compared() -> None:
    phonemes = "aɪɐm, ʌvðə. ɹˈuːm"
    assert placed("I am, of the. Room", "I am, of the. Room", phonemes) == [
        ("I", "aɪ"),
        ("am,", "ɐm"),
        ("of", "ʌv"),
        ("the.", "ðə"),
        ("Room", "ɹˈuːm"),
    ]


WRITTEN = st.text(alphabet="ab, .1😀\u65e5", max_size=24)


@settings(deadline=None)
@given(WRITTEN, WRITTEN, st.text(alphabet="abˈː, .", max_size=24))
def test_places_rise_whatever_the_strings(text: str, read: str, phonemes: str) -> None:
    sounds = word_sounds(text, read, phonemes, lambda word: word.strip("😀"), lambda word: word.replace("b", "ˈbː"))
    for before, after in pairwise([WordSound(0, 0, 0, 0), *sounds]):
        assert before.end <= after.begin < after.end <= len(text)
        assert before.last <= after.first < after.last <= len(phonemes)
