"""Backchannels: what a listener says while another one speaks ("mhm", "yeah", "I see"), and means no interruption by. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001


class Backchannels:
    """The words and phrases that do not interrupt a bot that speaks. ``phrases`` empty: each word counts.

    Case, hyphens and the length of a sound do not matter: "Mm-hmm" is "mhm", "Yeahhh" is "yeah".
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {tuple(_words(phrase)) for phrase in phrases} - {()}
        self._longest = max(map(len, self._phrases), default=0)

    def other_words(self, text: str) -> int:
        """How many words of ``text`` belong to no backchannel."""
        words = _words(text)
        at = others = 0
        while at < len(words):
            lengths = range(min(self._longest, len(words) - at), 0, -1)
            length = next((length for length in lengths if tuple(words[at : at + length]) in self._phrases), 0)
            at += length or 1
            others += not length
        return others


def count_words(text: str) -> int:
    """How many words ``text`` has. Punctuation is none."""
    return len(_words(text))


def _words(text: str) -> list[str]:
    """The words of ``text``, so that those that sound alike are alike: lower case, no hyphens, no letter twice in a row."""
    words = (word.replace("’", "'").replace("-", "") for word in _WORD.findall(text.lower()))  # noqa: RUF001
    return ["".join(letter for letter, _ in groupby(word)) for word in words]
