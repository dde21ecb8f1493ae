"""Which phonemes each word of a text is spoken with. Pure.

Between a text and its phonemes lie two steps, and neither keeps words. *Reading* spells out ("1,000" becomes "one thousand"),
leaves out (emoji) and splits ("well-known"). *Pronouncing* joins ("of the" becomes "ʌvðə") and changes sounds. Both are repeated
here for each word alone, with the results strung together; what really came out is nearly the same, so comparing the two tells
which word each part of it belongs to:

* The words read alone and the text as it was read are compared word by word. Where more than a sound differs ("$5 million" is read
  "five million dollars"), the words in question become a *group* that begins and ends together.
* What was read and its phonemes are taken between one punctuation mark and the next. As many words as runs of phonemes: one each.
  Otherwise the phonemes are compared with those of the words alone, which finds the "ðə" in "ʌvðə".

A place in the phonemes is never guessed by length, except where a single sound belongs to neither of two neighbours for certain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

PUNCTUATION = ';:,.!?\u00a1\u00bf\u2014\u2026"\u00ab\u00bb\u201c\u201d'
"""What stays between phonemes, and no run of them goes on behind it."""

_WORD = re.compile(r"\S+")
_TOKEN = re.compile(rf"[^\s{re.escape(PUNCTUATION)}]+")
_STRETCH = re.compile(rf"[^{re.escape(PUNCTUATION)}]+")
_STRESS = "\u02c8\u02cc"
"""Before the sound that they stress."""
_MARKS = _STRESS + "\u02d0\u02b2\u0329\u032f"
"""No sounds of their own. Words alone are stressed otherwise than in a sentence."""

Span = tuple[int, int]
"""[begin, end) in a string or list."""
Difference = tuple[str, int, int, int, int]
"""As ``difflib`` has them: what [begin, end) of one is in the other: equal, replace, insert or delete; and [begin, end) there."""


@dataclass(frozen=True, slots=True)
class WordSound:
    """The words ``text[begin:end]``, mostly one, sound with ``phonemes[first:last]``."""

    begin: int
    end: int
    first: int
    last: int


def word_sounds(
    text: str, read: str, phonemes: str, read_alone: Callable[[str], str], pronounce_alone: Callable[[str], str]
) -> list[WordSound]:
    """The words of ``text`` that have a sound. In both strings the spans rise and do not overlap.

    Args:
        text: as it was written.
        read: as it is read: words and punctuation.
        phonemes: of ``read``, with spaces and the same punctuation.
        read_alone: reads one written word.
        pronounce_alone: the phonemes of one read word.
    """
    words = [word.span() for word in _WORD.finditer(text)]
    if not words:
        return []
    spans = _token_spans(read, phonemes, pronounce_alone)
    sounds = []
    for (first_word, last_word), (begin, end) in _groups([text[slice(*word)] for word in words], _TOKEN.findall(read), read_alone):
        heard = [span for span in spans[begin:end] if span[0] < span[1]]
        if heard:
            sounds.append(WordSound(words[first_word][0], words[last_word][1], heard[0][0], heard[-1][1]))
    return sounds


# --------------------------------------------------------------------------------------------------- from text to words read


def _groups(words: list[str], tokens: list[str], read_alone: Callable[[str], str]) -> Iterator[tuple[Span, Span]]:
    """((first word, last word), tokens) of each group. A group has one word where nothing is unclear."""
    group, begin = (0, 0), 0
    for place, owners in enumerate(_owners(words, tokens, read_alone)):
        if place == 0:
            group = owners
        elif owners[0] <= group[1]:
            group = (group[0], max(group[1], owners[1]))
        else:
            yield group, (begin, place)
            group, begin = owners, place
    if tokens:
        yield group, (begin, len(tokens))


def _owners(words: list[str], tokens: list[str], read_alone: Callable[[str], str]) -> list[Span]:
    """For each of ``tokens`` the (first, last) word that it may belong to. Rising."""
    alone = [(token, place) for place, word in enumerate(words) for token in _TOKEN.findall(read_alone(word))]
    owners: list[Span] = []
    for kind, begin, end, first, last in _differences(
        [token.casefold() for token, _ in alone], [token.casefold() for token in tokens]
    ):
        between = [place for _, place in alone[begin:end]]
        if len(between) == last - first:
            owners += [(place, place) for place in between]
        elif kind == "replace":
            owners += [(between[0], between[-1])] * (last - first)
        elif kind == "insert":
            # It was read behind the word before it, or before the first one.
            place = alone[begin - 1][1] if begin else 0
            owners += [(owners[-1][0] if owners else 0, place)] * (last - first)
        elif owners:
            # Said in another place, which cannot be far: together with the word before it.
            owners[-1] = (owners[-1][0], between[-1])
    return owners


# ------------------------------------------------------------------------------------------------ from words read to phonemes


def _token_spans(read: str, phonemes: str, pronounce_alone: Callable[[str], str]) -> list[Span]:
    """For each token of ``read`` its phonemes; begin and end are the same for one without."""
    read_stretches, stretches = _stretches(read), _stretches(phonemes)
    if len(read_stretches) != len(stretches):
        read_stretches, stretches = [(0, len(read))], [(0, len(phonemes))]
    spans: list[Span] = []
    for read_stretch, stretch in zip(read_stretches, stretches, strict=True):
        tokens = [token.group() for token in _TOKEN.finditer(read, *read_stretch)]
        runs = [run.span() for run in _TOKEN.finditer(phonemes, *stretch)]
        spans += runs if len(runs) == len(tokens) else _split(tokens, phonemes, runs, pronounce_alone)
    return spans


def _stretches(text: str) -> list[Span]:
    return [stretch.span() for stretch in _STRETCH.finditer(text) if not stretch.group().isspace()]


def _split(tokens: list[str], phonemes: str, runs: list[Span], pronounce_alone: Callable[[str], str]) -> list[Span]:
    """The phonemes of ``tokens``, which are in ``runs`` but not one in each."""
    sounds = [place for run in runs for place in range(*run) if phonemes[place] not in _MARKS]
    alone, ends = "", []
    for token in tokens:
        alone += "".join(sound for sound in pronounce_alone(token) if not sound.isspace() and sound not in _MARKS)
        ends.append(len(alone))
    run_begins = {sum(place < run[0] for place in sounds) for run in runs}
    cuts = _carry(ends, _differences(alone, "".join(phonemes[place] for place in sounds)), run_begins)
    spans, begin = [], 0
    for cut in [*cuts[:-1], len(sounds)]:
        spans.append(_span(phonemes, sounds[begin:cut]) if begin < cut else (0, 0))
        begin = cut
    return spans


def _carry(places: list[int], differences: Sequence[Difference], preferred: set[int]) -> list[int]:
    """Where rising ``places`` of one string are in the other. Inside of a difference: at a ``preferred`` place, or by length."""
    carried = []
    for place in places:
        kind, begin, end, first, last = next((each for each in differences if place <= each[2]), ("equal", place, place, 0, 0))
        if kind == "equal":
            carried.append(first + place - begin)
            continue
        by_length = first + round((place - begin) * (last - first) / max(end - begin, 1))
        nearby = [cut for cut in preferred if first <= cut <= last]
        carried.append(min(nearby, key=lambda cut: abs(cut - by_length)) if nearby else by_length)
    return carried


def _span(phonemes: str, sounds: list[int]) -> Span:
    """From the first to the last of ``sounds``, with the marks that belong to them."""
    begin, end = sounds[0], sounds[-1] + 1
    while begin > 0 and phonemes[begin - 1] in _STRESS:
        begin -= 1
    while end < len(phonemes) and phonemes[end] in _MARKS and phonemes[end] not in _STRESS:
        end += 1
    return begin, end


def _differences(one: list[str] | str, other: list[str] | str) -> Sequence[Difference]:
    return SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
