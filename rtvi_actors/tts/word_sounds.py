"""Which phonemes each word of a text is spoken with. Pure.

Between a text and its phonemes lie two steps, and neither keeps words. *Reading* spells out ("1,000" becomes "one thousand"),
leaves out (emoji) and splits ("well-known"). *Pronouncing* joins ("of the" becomes "ʌvðə") and changes sounds. Both are repeated
here for each word alone, with the results strung together; what really came out is nearly the same, so comparing the two tells
which word each part of it belongs to:

* The words read alone and the text as it was read are compared word by word. Where more than a sound differs ("$5 million" is read
  "five million dollars"), the words in question become a *group* that begins and ends together.
* What was read and its phonemes are taken between one punctuation mark and the next. As many words as runs of phonemes: one each.
  Otherwise the phonemes are compared with those of the words alone, which finds the "ðə" in "ʌvðə". Only if both are long and
  nothing like each other, the words end together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import accumulate, pairwise

PUNCTUATION = ';:,.!?\u00a1\u00bf\u2014\u2026"\u00ab\u00bb\u201c\u201d'
"""What stays between phonemes, and no run of them goes on behind it."""

_WORD = re.compile(r"\S+")
_TOKEN = re.compile(rf"[^\s{re.escape(PUNCTUATION)}]+")
_STRETCH = re.compile(rf"[^{re.escape(PUNCTUATION)}]+")
_STRESS = "\u02c8\u02cc"
"""Before the sound that they stress."""
_MARKS = _STRESS + "\u02d0\u02b2\u0329\u032f"
"""No sounds of their own. Words alone are stressed otherwise than in a sentence."""
_VOWELS = frozenset(
    "aeiouy\u00e6\u00f8\u0153\u0250\u0251\u0252\u0254\u0259\u025a\u025b\u025c\u025d\u0268\u026a\u0275\u0289\u028a\u028c\u1d4a\u1d7b"
)

_SAME, _LESS, _MORE = 0, 1, 2
"""Steps from one string to the other: a sound for a sound, one that is only in the first, one that is only in the second."""
_GAP = 2
_REACH = 8
"""Sounds by which two places may be further apart than the strings differ in length."""
_MOST_CHANGES = 20_000
"""Pairs of sounds that are compared at most, beyond :data:`_REACH`: about 20 ms, for a clause of 400 characters."""

Span = tuple[int, int]
"""[begin, end) in a string or list."""


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
    matcher = SequenceMatcher(
        None, [token.casefold() for token, _ in alone], [token.casefold() for token in tokens], autojunk=False
    )
    for kind, begin, end, first, last in matcher.get_opcodes():
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
        if len(runs) == len(tokens):
            spans += runs
        else:
            alone = [_sounds(pronounce_alone(token)) for token in tokens]
            for own_tokens, own_runs in _unlike(alone, [_sounds(phonemes[slice(*run)]) for run in runs]):
                spans += _split(alone[slice(*own_tokens)], phonemes, runs[slice(*own_runs)])
    return spans


def _stretches(text: str) -> list[Span]:
    return [stretch.span() for stretch in _STRETCH.finditer(text) if not stretch.group().isspace()]


def _sounds(phonemes: str) -> str:
    return "".join(phoneme for phoneme in phonemes if phoneme not in _MARKS and not phoneme.isspace())


def _unlike(alone: list[str], runs: list[str]) -> Iterator[tuple[Span, Span]]:
    """(words, runs), in order and all of them: each word that is found again as a run, and what is between those.

    A word is found again by its consonants, two at least, if no other word and no other run of the stretch has just those; with as
    many vowels, since "fə" may be "for" and "fərə" "for a".
    """
    words_of, runs_of = _by_consonants(alone), _by_consonants(runs)
    word, run = 0, 0
    for consonants, (at, *others) in words_of.items():
        found = runs_of.get(consonants, [])
        once = len(consonants) > 1 and not others and len(found) == 1
        if once and found[0] >= run and len(alone[at]) == len(runs[found[0]]):
            yield (word, at), (run, found[0])
            yield (at, at + 1), (found[0], found[0] + 1)
            word, run = at + 1, found[0] + 1
    yield (word, len(alone)), (run, len(runs))


def _by_consonants(words: list[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(words):
        places.setdefault("".join(sound for sound in word if sound not in _VOWELS), []).append(place)
    return places


def _split(alone: list[str], phonemes: str, runs: list[Span]) -> list[Span]:
    """The phonemes in ``runs`` of words that have the sounds ``alone``."""
    if len(alone) == len(runs):
        return runs
    sounds = [place for run in runs for place in range(*run) if phonemes[place] not in _MARKS]
    said = "".join(alone)
    if not sounds or not alone:
        return [(0, 0)] * len(alone)
    if len(said) * abs(len(said) - len(sounds)) > _MOST_CHANGES:
        return [(0, 0)] * (len(alone) - 1) + [(runs[0][0], runs[-1][1])]
    run_begins = {sum(place < run[0] for place in sounds) for run in runs}
    cuts = [0]
    for first, last in _aligned(said, "".join(phonemes[place] for place in sounds), list(accumulate(map(len, alone)))):
        # What is heard between two words belongs to the second one, unless a run begins later.
        cuts.append(next((place for place in range(first, last + 1) if place in run_begins), first))
    cuts[-1] = len(sounds)
    return [_span(phonemes, sounds[first:last]) if first < last else (0, 0) for first, last in pairwise(cuts)]


def _aligned(one: str, other: str, places: list[int]) -> list[Span]:
    """Where rising ``places`` between the sounds of one string are in the other: somewhere in [first, last], both included.

    By the fewest changes that make one of the other, where a vowel easily becomes another vowel. Only what is about as far along
    in both is compared.
    """
    moves = _changes(one, other)
    reached = [(0, 0)] * (len(one) + 1)
    at, to = len(one), len(other)
    last = to
    while at > 0 or to > 0:
        move = moves[at][to]
        if move != _MORE:
            reached[at] = (to, last)
        at, to = at - (move != _MORE), to - (move != _LESS)
        if move != _MORE:
            last = to
    reached[0] = (0, last)
    return [reached[place] for place in places]


def _changes(one: str, other: str) -> list[dict[int, int]]:
    """For each length of ``one`` and (nearby) of ``other`` the last step of the cheapest way from one to the other."""
    reach = abs(len(one) - len(other)) + _REACH
    costs = {to: to * _GAP for to in range(min(reach, len(other)) + 1)}
    moves = [dict.fromkeys(costs, _MORE)]
    for at, sound in enumerate(one, start=1):
        middle = at * len(other) // len(one)
        before, costs, row = costs, {}, {}
        for to in range(max(middle - reach, 0), min(middle + reach, len(other)) + 1):
            ways = [(before[to] + _GAP, _LESS)] if to in before else []
            if to - 1 in costs:
                ways.append((costs[to - 1] + _GAP, _MORE))
            if to - 1 in before:
                ways.append((before[to - 1] + _change(sound, other[to - 1]), _SAME))
            if ways:
                costs[to], row[to] = min(ways)
        moves.append(row)
    return moves


def _change(sound: str, other: str) -> int:
    if sound == other:
        return 0
    return 1 if sound in _VOWELS and other in _VOWELS else 3


def _span(phonemes: str, sounds: list[int]) -> Span:
    """From the first to the last of ``sounds``, with the marks that belong to them."""
    begin, end = sounds[0], sounds[-1] + 1
    while begin > 0 and phonemes[begin - 1] in _STRESS:
        begin -= 1
    while end < len(phonemes) and phonemes[end] in _MARKS and phonemes[end] not in _STRESS:
        end += 1
    return begin, end
