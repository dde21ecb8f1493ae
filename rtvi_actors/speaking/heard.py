"""How much of a clause a user heard when its audio was cut.

Only whole words count: a word of which the end was not sent was not said. With marks the model's own timing tells which those are,
and nothing is guessed. Without, speech is taken to run evenly over the clause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SAMPLES_PER_CHAR = 1_600
"""At 24 kHz, 15 characters a second: the pace of ordinary speech, for a clause of which the length is not known yet."""

_WORD = re.compile(r"\S+")


def heard_char(text: str, samples_sent: int, samples_total: int | None, marks: Sequence[Sequence[int]] = ()) -> int:
    """Number of characters of ``text`` that were heard, up to the end of a whole word; 0 for none.

    Args:
        text: the clause.
        samples_sent: how many samples of its audio were sent, 24 kHz.
        samples_total: how many it has; None when that is not known yet.
        marks: ``[[sample, char], ...]``, both rising: with ``sample`` samples, all characters before ``char`` are said. A word is
            heard with the first mark at or behind its end.
    """
    if samples_sent <= 0:
        return 0
    if samples_total is not None and samples_sent >= samples_total:
        return len(text)
    if marks:
        return _whole_words(text, max((char for sample, char in marks if sample <= samples_sent), default=0))
    total = samples_total if samples_total is not None else max(len(text) * SAMPLES_PER_CHAR, samples_sent)
    return _whole_words(text, len(text) * samples_sent / total)


def _whole_words(text: str, position: float) -> int:
    end = 0
    for word in _WORD.finditer(text):
        if word.end() > position:
            break
        end = word.end()
    return end
