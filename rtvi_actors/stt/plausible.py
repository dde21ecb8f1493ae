"""Texts that a speech model makes up: of noise, and when it falls into a loop. Pure."""

from __future__ import annotations

NO_SPEECH = 0.6
LOG_PROBABILITY = -1.0
"""A text is made up if the model held silence for at least this probable and its words, on average, for less than this."""

LOOP_REPEATS = 3
LOOP_WORDS = 8
"""The same words in a row this often, and this many in all, are a loop: "no no no" is speech."""

LONGEST_LOOP = 12
"""Words of the longest phrase that is looked for."""

_INVENTIONS = frozenset(
    (
        "you",
        "thank you",
        "thank you very much",
        "thank you so much",
        "thanks",
        "thanks for watching",
        "thank you for watching",
        "bye",
    )
)


def is_made_up(text: str, no_speech: float, log_probability: float) -> bool:
    """Whether nobody said ``text``. ``log_probability``: the average of its tokens."""
    if not any(character.isalnum() for character in text):
        return True
    return no_speech >= NO_SPEECH and log_probability < LOG_PROBABILITY


def is_typical_invention(text: str) -> bool:
    """Whether ``text`` is nothing but what speech models like to make of a noise or a fragment. People say it too."""
    return " ".join(filter(None, map(_plain, text.split()))) in _INVENTIONS


def has_loop(text: str) -> bool:
    """Whether ``text`` repeats itself like a model that has run away."""
    return without_loops(text) != " ".join(text.split())


def without_loops(text: str) -> str:
    """``text`` with each loop cut down to its first round; white space becomes single spaces."""
    words = text.split()
    plain = [_plain(word) for word in words]
    kept: list[str] = []
    at = 0
    while at < len(words):
        width, repeats = _loop(plain, at)
        if repeats:
            kept += words[at : at + width]
            at += width * repeats
            if plain[at:] == plain[at - width : at - width + len(plain) - at]:
                break  # the last round was cut off
        else:
            kept.append(words[at])
            at += 1
    return " ".join(kept)


def _plain(word: str) -> str:
    return word.strip(".,!?;:\"'").lower()


def _loop(plain: list[str], at: int) -> tuple[int, int]:
    """(words, rounds) of the loop that begins at ``at``; (0, 0) if there is none."""
    for width in range(1, min(LONGEST_LOOP, (len(plain) - at) // LOOP_REPEATS) + 1):
        repeats = 1
        while plain[at + repeats * width : at + (repeats + 1) * width] == plain[at : at + width]:
            repeats += 1
        if repeats >= LOOP_REPEATS and repeats * width >= LOOP_WORDS:
            return width, repeats
    return 0, 0
