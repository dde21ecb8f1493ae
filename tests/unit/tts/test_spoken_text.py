from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.tts.spoken_text import spoken_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("The capital of France is Paris.", "The capital of France is Paris."),
        ("10% off", "10 percent off"),
        ("It costs $3.50.", "It costs $3.50."),
        ("It costs $1,234.56.", "It costs $1,234.56."),
        ("€5 or ¥100", "5 euros or 100 yen"),
        ("$5 million", "5 million dollars"),
        ("pi is 3.14", "pi is 3 point 1 4"),
        ("at 3:30pm, 3:00 pm, 9:00 or 12:05", "at 3 30 pm, 3 pm, 9 o'clock or 12 oh 5"),
        ("on 2026-11-22", "on 2026, 11, 22"),
        ("5-10 of 50/50", "5 to 10 of 50 over 50"),
        ("-5°C + 3 = 8", "5 degrees Celsius plus 3 equals 8"),
        ("1st 2nd 100km", "1st 2nd 100 km"),
        ("1234567890123", "1 2 3 4 5 6 7 8 9 0 1 2 3"),
        ("don\u2019t \u201cquote\u201d \u2014 ok\u2026", "don't quote, ok."),
        ("**bold** `code` snake_case", "bold code snake case"),
        ("- one\n- two", "one two"),
        ("[the docs](https://example.com/x)", "the docs"),
        ("see https://www.example.com/a?b=1 please", "see example dot com please"),
        ("Great \U0001f389\U0001f389! Ok", "Great! Ok"),
        ("hello \u65e5\u672c world", "hello world"),
        ("caf\u00e9", "caf\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("a", "a"),
        ("7", "7"),
    ],
)
def test_reads_as_english(text: str, spoken: str) -> None:
    assert spoken_text(text) == spoken


@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "\U0001f389", "\u65e5\u672c", "\u200d", "-", "'", "\u2014"])
def test_nothing_to_say(text: str) -> None:
    assert spoken_text(text) == ""


@given(st.text(max_size=400))
def test_any_text_gives_latin_letters_digits_and_punctuation(text: str) -> None:
    spoken = spoken_text(text)
    assert "  " not in spoken
    assert not spoken or any(character.isalnum() for character in spoken)
    for character in spoken:
        assert character in " ,.;:!?'-$\u00a3" or character.isalpha() or character in "0123456789"
