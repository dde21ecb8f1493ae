# ruff: noqa: RUF001 - phonemes

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.tts.hibari import MAX_PHONEMES, _runs

pytestmark = pytest.mark.unit


def test_a_sentence_is_one_run() -> None:
    assert list(_runs("həlˈO, wˈɜɹld!")) == [(0, 14)]


def test_a_long_one_is_cut_at_punctuation_else_between_words() -> None:
    words = "wˈɜɹd " * 45
    text = f"{words[:-1]}, {words * 2}"
    runs = [text[begin:end] for begin, end in _runs(text)]
    assert runs[0] == f"{words[:-1]}, "
    assert all(run.endswith(" ") for run in runs[:-1])


@given(st.text("aˈ ,;", max_size=5 * MAX_PHONEMES))
def test_runs_are_the_whole(phonemes: str) -> None:
    runs = list(_runs(phonemes))
    assert "".join(phonemes[begin:end] for begin, end in runs) == phonemes
    assert all(end - begin <= MAX_PHONEMES for begin, end in runs)
    assert len(runs) == 1 or all(end > begin for begin, end in runs)
