"""How much of a clause a user heard when its audio was cut."""

from __future__ import annotations

from collections.abc import Sequence


def heard_char(text: str, samples_sent: int, samples_total: int | None, marks: Sequence[Sequence[int]] = ()) -> int:
    """Number of characters of ``text`` that were heard, at the end of a whole word."""
    return 0
