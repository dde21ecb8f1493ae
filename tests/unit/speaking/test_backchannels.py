"""What counts as a word that interrupts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.config import BACKCHANNELS
from rtvi_actors.speaking.backchannels import Backchannels, count_words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text",
    ["", " ... ", "Mhm.", "Mm-hmm.", "Mmm.", "Hmmm...", "Uh-huh.", "Yeah.", "Yeahhh", "Yeah, okay.", "OK. Right, right.", "I see."],
)
def test_a_listener_interrupts_nobody(text: str) -> None:
    assert Backchannels(BACKCHANNELS).other_words(text) == 0


@pytest.mark.parametrize(
    ("text", "others"),
    [("Stop.", 1), ("Yeah, but wait.", 2), ("I", 1), ("I see what you mean.", 3), ("No.", 1), ("Okay, thank you", 2), ("停", 1)],
)
def test_words_that_mean_more(text: str, others: int) -> None:
    assert Backchannels(BACKCHANNELS).other_words(text) == others


def test_without_a_list_every_word_counts() -> None:
    assert Backchannels([]).other_words("Yeah, okay.") == 2
    assert Backchannels(["", "..."]).other_words("Yeah, okay.") == 2


def test_a_list_of_ones_own() -> None:
    german = Backchannels(["ja", "genau", "ach so"])
    assert german.other_words("Ja, genau. Ach so!") == 0
    assert german.other_words("Ach ja?") == 1


@given(st.text(max_size=60))
def test_no_text_has_more_other_words_than_words(text: str) -> None:
    assert 0 <= Backchannels(BACKCHANNELS).other_words(text) <= count_words(text)
    assert Backchannels([]).other_words(text) == count_words(text)
