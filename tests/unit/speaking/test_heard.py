from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.speaking.heard import SAMPLES_PER_CHAR, heard_char

pytestmark = pytest.mark.unit

TEXT = "One two three. "


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(0, ""), (100, ""), (200, "One"), (460, "One"), (470, "One two"), (932, "One two"), (934, "One two three."), (1_000, TEXT)],
)
def test_speech_runs_evenly_and_only_whole_words_count(sent: int, heard: str) -> None:
    assert TEXT[: heard_char(TEXT, sent, 1_000)] == heard


def test_a_clause_of_unknown_length_is_judged_by_the_pace_of_speech() -> None:
    assert TEXT[: heard_char(TEXT, 7 * SAMPLES_PER_CHAR, None)] == "One two"
    assert TEXT[: heard_char(TEXT, 1_000 * SAMPLES_PER_CHAR, None)] == TEXT.rstrip()


STARTS = [[10, 0], [400, 4], [700, 8]]
"""A voice that tells where words begin."""
BOTH = [[10, 0], [390, 3], [400, 4], [650, 7], [700, 8], [900, 14]]
"""And where they end: the silence behind a word is not part of it."""


@pytest.mark.parametrize(("marks", "ends"), [(STARTS, (400, 700, 1_000)), (BOTH, (390, 650, 900))], ids=["starts", "both"])
@pytest.mark.parametrize("total", [1_000, None])
def test_a_word_is_heard_with_its_last_sample_and_not_one_earlier(
    marks: list[list[int]], ends: tuple[int, int, int], total: int | None
) -> None:
    words = [0 if sent < ends[0] else 1 if sent < ends[1] else 2 if sent < ends[2] else 3 for sent in range(1_000)]
    assert [len(TEXT[: heard_char(TEXT, sent, total, marks)].split()) for sent in range(1_000)] == words
    assert {TEXT[: heard_char(TEXT, sent, total, marks)] for sent in range(1_000)} <= {"", "One", "One two", "One two three."}
    assert heard_char(TEXT, 1_000, 1_000, marks) == len(TEXT)


def test_marks_inside_a_word_do_not_split_it() -> None:
    assert heard_char(TEXT, 500, 1_000, [[0, 0], [500, 2], [600, 5]]) == 0
    assert TEXT[: heard_char(TEXT, 600, 1_000, [[0, 0], [500, 2], [600, 5]])] == "One"


def test_marks_that_do_not_begin_at_zero_or_share_a_sample() -> None:
    assert heard_char(TEXT, 50, 1_000, [[100, 0], [100, 4], [1_000, 15]]) == 0
    assert TEXT[: heard_char(TEXT, 100, 1_000, [[100, 0], [100, 4], [1_000, 15]])] == "One"


@settings(deadline=None)
@given(
    text=st.text(max_size=60),
    total=st.integers(1, 50_000),
    sent=st.lists(st.integers(0, 60_000), min_size=2, max_size=2),
    marks=st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 60)), max_size=5),
    known=st.booleans(),
)
def test_more_audio_is_never_less_text(text: str, total: int, sent: list[int], marks: list[tuple[int, int]], known: bool) -> None:
    samples = sorted(sample for sample, _ in marks)
    chars = sorted(min(char, len(text)) for _, char in marks)
    ordered = [list(mark) for mark in zip(samples, chars, strict=True)]
    less, more = (heard_char(text, count, total if known else None, ordered) for count in sorted(sent))
    assert 0 <= less <= more <= len(text)
    for heard in (less, more):
        # At the end of a word: no word is split.
        assert heard == len(text) or heard == 0 or (not text[heard - 1].isspace() and text[heard].isspace())
