"""Cut a growing text into clauses that can be spoken one by one. Pure.

The first clause decides when the first audio comes, so it is short: it ends at the first pause (``, ; :``) or sentence end once it
has two words, or between words after six to ten of them. Later clauses end at sentence ends, since a voice needs the whole sentence
to sound right. But a clause must be there before what comes before it has been played. So one that is 1.5 times as long as all
before it ends at its next pause (beyond 120 characters in any case), one that is 4 times as long between words; and where the
model writes so slowly that what was said before will soon have been played, all that is there up to the last word is a
clause. No clause has more than 400 characters.

A cut is only made where white space (or a CJK mark) stands and the character behind it is known. So numbers, URLs and ``...`` stay
whole, and, but for a slow model, the clauses do not depend on how the text arrived in pieces.
"""

# ruff: noqa: RUF001 - typographic and CJK marks are what this module is about

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 400
"""Longest clause, as a TtsRequest allows."""

_LONG_CHARS = 120
"""From here on a pause ends a clause, too ..."""
_PAUSE_CHARS = 24
_PAUSE_GROWTH = 1.5
"""... or, if that is shorter, from this many times the characters before the clause, but not below _PAUSE_CHARS."""
_SPACE_CHARS = 36
_SPACE_GROWTH = 4
"""From this many times the characters before it, a later clause ends between words, but not below _SPACE_CHARS."""
_SPOKEN_MS_PER_CHAR = 30
"""How long a character lasts at least, spoken. (The default voice: 32 to 55.)"""
_SYNTHESIS_MS = 300
"""From a clause to its first sound on a busy machine."""
_HURRIED_CHARS = 16
"""What a clause has at least that ends because it is late: each costs a synthesis."""
_FIRST_WORDS = 2
"""A first clause shorter than this is not worth a synthesis of its own."""
_RUN_ON_WORDS = 6
"""A first clause without punctuation ends after so many words ..."""
_RUN_ON_WORDS_MAX = 10
"""... or later, up to so many, if the last one leans on the next ("of the ...")."""

_STOP_MARKS = ".!?…。！？｡"
_PAUSE_MARKS = ",;:–—、，；："
_CLOSERS = "\"'”’)]}»*_」』）】"

_BOUNDARY = re.compile(
    rf"\s+(?=\S)|(?<=[。！？｡、，；：])[{re.escape(_CLOSERS)}]*\s*(?=[^\s{re.escape(_CLOSERS + _STOP_MARKS + _PAUSE_MARKS)}])"
)
_ABBREVIATION_WORDS = """
mr mrs ms dr prof sr jr st vs etc vol approx inc ltd corp dept gen col sgt capt lt rev hon mt ft cf
jan feb apr jun jul aug sep sept oct nov dec bzw usw ggf
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split())
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+", re.UNICODE)
"""Initials and dotted abbreviations: ``J.``, ``e.g.``, ``U.S.``, ``p.m.``"""
_LEANING_WORDS = """
a an the of to in on at by for from with and or but nor as than that which who whose is are was were be been am i'm it's
my your his her its our their this these those into onto about over under between if because so very not no can will would
could should may might must has have had do does did
"""
_LEANING = frozenset(_LEANING_WORDS.split())
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


class ClauseCutter:
    """Takes the text of one answer piece by piece and gives its clauses. Joined, they are the text, white space included."""

    def __init__(self) -> None:
        self._rest = ""
        self._before = 0
        """Characters of the clauses that were given."""
        self._played_ms = 0.0

    def push(self, text: str, played_ms: float = 0.0) -> list[str]:
        """Add ``text`` and take the clauses that are complete with it: none, one or several, 1 to 400 characters each.

        ``played_ms``: how long the first clause may have been playing; 0 if it is not yet.
        """
        self._rest += text
        self._played_ms = played_ms
        clauses: list[str] = []
        start = 0
        while (end := self._cut(start)) > start:
            clauses.append(self._rest[start:end])
            self._before += end - start
            start = end
        self._rest = self._rest[start:]
        return clauses

    def end(self) -> str:
        """The text is complete: its rest, the last clause; "" if there is none."""
        rest, self._rest = self._rest, ""
        return rest

    def _cut(self, start: int) -> int:
        """Where the clause that begins at ``start`` ends; ``start`` if that is not known yet."""
        window = self._rest[start : start + MAX_CHARS + 1]
        pause = space = 0
        for match in _BOUNDARY.finditer(window):
            head, end = window[: match.start()], match.end()
            mark = _mark_at_end(head, window[match.start() : end])
            if not head.strip() or _inside_ellipsis(mark, window[end:]):
                continue
            if self._ends_clause(head, mark, window[end]):
                return start + end
            if mark:
                pause = end
            if not _between_digits(head, window[end]):
                space = end
        if len(window) > MAX_CHARS:
            return start + (pause or space or _whole_characters(window, MAX_CHARS))
        if self._is_late() and not _leans(window[:space]):
            end = pause if pause > space / 2 else space
            return start + end if end >= _HURRIED_CHARS else start
        return start

    def _is_late(self) -> bool:
        """Whether what was given will soon have been played."""
        return self._played_ms > 0 and self._played_ms + _SYNTHESIS_MS > self._before * _SPOKEN_MS_PER_CHAR

    def _ends_clause(self, head: str, mark: str, following: str) -> bool:
        if self._before:
            if mark == "stop":
                return True
            if mark == "pause":
                return len(head) >= min(_LONG_CHARS, max(_PAUSE_CHARS, _PAUSE_GROWTH * self._before))
            long_enough = len(head) >= max(_SPACE_CHARS, _SPACE_GROWTH * self._before)
            return long_enough and _may_part(head, following) and not _leans(head)
        words = _count_words(head)
        if mark:
            return words >= _FIRST_WORDS
        if words < _RUN_ON_WORDS or not _may_part(head, following):
            return False
        return words >= _RUN_ON_WORDS_MAX or not _leans(head)


def _mark_at_end(head: str, space: str) -> str:
    """How ``head`` ends: "stop", "pause" or "" (in mid-sentence). ``space`` is the white space behind it."""
    text = head.rstrip(_CLOSERS)
    if not text:
        return ""
    if text[-1] in _PAUSE_MARKS:
        return "stop" if "\n" in space else "pause"
    if text[-1] in _STOP_MARKS and not _is_abbreviation(text):
        return "stop"
    return "stop" if "\n" in space else ""


def _is_abbreviation(text: str) -> bool:
    """Whether the full stop at the end of ``text`` belongs to its last word: ``Dr.``, ``e.g.``, or ``1.`` of a list."""
    if not text.endswith(".") or text.endswith(".."):
        return False
    word = text.rsplit(maxsplit=1)[-1].lstrip("(\"'“‘[")
    if _DOTTED.fullmatch(word) or word[:-1].lower() in _ABBREVIATIONS:
        return True
    line = text.rsplit("\n", maxsplit=1)[-1].strip()
    return line == word and word[:-1].isdigit()


def _inside_ellipsis(mark: str, following: str) -> bool:
    """``. . .`` is one mark, written apart."""
    return mark == "stop" and following[:1] in (".", "…")


def _may_part(head: str, following: str) -> bool:
    """Whether the white space between the two may end a clause without a mark."""
    return not _between_digits(head, following) and not _WIDE.search(head)


def _leans(head: str) -> bool:
    """Whether the last word belongs to what follows: ``of the``."""
    return head.strip() != "" and head.rsplit(maxsplit=1)[-1].lower() in _LEANING


def _between_digits(head: str, following: str) -> bool:
    """``10 000`` and ``555 1234`` stay together."""
    return head[-1:].isdigit() and following.isdigit()


def _count_words(text: str) -> int:
    """Words, where two characters of a script without spaces count as one."""
    wide = len(_WIDE.findall(text))
    return wide // 2 if wide else len(text.split())


def _whole_characters(text: str, end: int) -> int:
    """The last place up to ``end`` that is not inside of what is drawn as one character (accents, emoji sequences)."""
    for place in range(end, max(end - 32, 1), -1):
        before, after = text[place - 1], text[place]
        if not (_joins(after) or before == "\u200d" or (_is_flag(before) and _is_flag(after))):
            return place
    return end


def _joins(char: str) -> bool:
    """Whether ``char`` is drawn together with what stands before it."""
    return (
        unicodedata.combining(char) != 0
        or unicodedata.category(char) in ("Mn", "Me", "Mc")
        or char in "\u200d\ufe0e\ufe0f"
        or (0x1F3FB <= ord(char) <= 0x1F3FF)
    )


def _is_flag(char: str) -> bool:
    return 0x1F1E6 <= ord(char) <= 0x1F1FF
