"""How much of a clause a user heard when its audio was cut.

With marks the character follows from the model's own timing. Without, speech is taken to run evenly over the clause. Either way
only whole words count: a word of which the end was not sent was not said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SAMPLES_PER_CHAR = 1_600
"""At 24 kHz, 15 characters a second: the pace of ordinary speech, for a clause of which the length is not known yet."""

_WORD = re.compile(r"\S+")


def heard_char(text: str, samples_sent: int, samples_total: int | None, marks: Sequence[Sequence[int]] = ()) -> int:
    """Number of characters of ``text`` that were heard, up to the end of a whole word.

    Args:
        text: the clause.
        samples_sent: how many samples of its audio were sent, 24 kHz.
        samples_total: how many it has; None when that is not known yet.
        marks: ``[[sample, char], ...]``, both rising: character ``char`` begins at ``sample``.
    """
    if samples_sent <= 0:
        return 0
    if samples_total is not None and samples_sent >= samples_total:
        return len(text)
    total = samples_total if samples_total is not None else max(len(text) * SAMPLES_PER_CHAR, samples_sent)
    position = _by_marks(len(text), samples_sent, total, marks) if marks else len(text) * samples_sent / total
    return _whole_words(text, position)


def _by_marks(length: int, sent: int, total: int, marks: Sequence[Sequence[int]]) -> float:
    """The character at sample ``sent``, evenly between the two marks around it."""
    before = (0, 0)
    for sample, char in marks:
        if sample > sent:
            return _between(before, (sample, char), sent)
        before = (sample, char)
    return _between(before, (max(total, sent), length), sent)


def _between(before: tuple[int, int], after: tuple[int, int], sent: int) -> float:
    span = after[0] - before[0]
    share = (sent - before[0]) / span if span > 0 else 0.0
    return before[1] + (after[1] - before[1]) * share


def _whole_words(text: str, position: float) -> int:
    end = 0
    for word in _WORD.finditer(text):
        if word.end() > position:
            break
        end = word.end()
    return end
