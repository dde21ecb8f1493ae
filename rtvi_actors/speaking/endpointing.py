"""When a silence ends the user's turn: how long to wait after what was said.

Whisper puts a full stop behind almost any fragment, so a full stop alone proves nothing: these rules look for what a speaker
would not stop at. A wrong "unfinished" costs the difference of the two waits, a wrong "finished" cuts the user off, so doubt
means unfinished.
"""

from __future__ import annotations

import re
from typing import Final

from rtvi_actors.config import Speaking

_TERMINAL: Final = frozenset(".!?。！？।؟")  # noqa: RUF001  the marks of other scripts are meant
_CLOSING: Final = "\"'”’»)]」』 "  # noqa: RUF001
_PATIENCE: Final = 1.5
"""A silence must be this much longer than the longest pause that the speaker already made inside the turn."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nobody stops here, not even in a question.
_DANGLING: Final = _words(
    "a an the and or but nor because although whereas unless until whether if than "
    "my your our their its every i he she we they i'm you're we're they're he's she's i've i'd i'll we'll you'll "
    "um uh er erm hmm hm mm so actually basically also plus very just gonna wanna which whose not"
)
# A question may end with these ("What is it for?"), a statement hardly.
_PREPOSITIONS: Final = _words(
    "of to for with from at by in on into onto about between during without within against toward towards through as "
    "under over near per via upon among since"
)
# A particle is no preposition after one of these: "Turn the light on.", "Please come in."
_PHRASAL: Final = _words(
    "turn turned turning switch switched put come came coming log logged sign signed hold keep go goes going went move moved "
    "check checked fill filled bring get carry try stay stayed let thought think"
)
_PARTICLES: Final = _words("in on over through about by")
# They stand for a whole answer behind a pronoun ("Yes, it is."), and open one behind a noun ("My name is").
_AUXILIARIES: Final = _words(
    "is are was were am be been being will would can could should shall may might must has have had isn't aren't "
    "wasn't weren't don't doesn't didn't can't couldn't won't wouldn't shouldn't haven't hasn't"
)
_PRONOUNS: Final = _words("i you he she it we they that this there these those who what which one")
# A sentence that opens with one of these needs a second clause.
_LEADING: Final = _words("if when whenever while although though since once")

_SHORT_ANSWERS: Final = (
    "yes",
    "yeah",
    "yep",
    "yup",
    "no",
    "nope",
    "ok",
    "okay",
    "sure",
    "right",
    "all right",
    "alright",
    "exactly",
    "correct",
    "absolutely",
    "definitely",
    "of course",
    "not really",
    "not yet",
    "of course not",
    "certainly not",
    "probably not",
    "i hope not",
    "i'd rather not",
    "why not",
    "maybe",
    "perhaps",
    "please",
    "thanks",
    "thanks a lot",
    "thank you",
    "thank you very much",
    "thank you so much",
    "you're welcome",
    "great",
    "perfect",
    "fine",
    "good",
    "cool",
    "nice",
    "sounds good",
    "got it",
    "i see",
    "i understand",
    "i don't know",
    "i don't think so",
    "i think so",
    "i agree",
    "hello",
    "hello there",
    "hi",
    "hi there",
    "good morning",
    "good afternoon",
    "good evening",
    "good night",
    "bye",
    "bye bye",
    "goodbye",
    "see you",
    "stop",
    "stop it",
    "wait",
    "wait a minute",
    "hold on",
    "cancel",
    "continue",
    "go on",
    "go ahead",
    "never mind",
    "forget it",
    "shut up",
    "be quiet",
    "help",
    "help me",
    "repeat",
    "repeat that",
    "again",
    "next",
    "done",
    "nothing",
    "that's it",
    "that's all",
    "that's right",
    "sorry",
    "excuse me",
    "pardon",
)
_ANSWER: Final = "|".join(re.escape(answer) for answer in sorted(_SHORT_ANSWERS, key=len, reverse=True))
_ONLY_SHORT_ANSWERS: Final = re.compile(rf"(?:{_ANSWER})(?: (?:{_ANSWER}))*")
_SENTENCE_END: Final = re.compile(r"[.!?]+\s+")
_WORD: Final = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_LEAST_WORDS: Final = 3


def has_words(text: str) -> bool:
    """Whether a transcript holds anything but punctuation."""
    return any(character.isalnum() for character in text)


def reads_as_finished(text: str, language: str = "") -> bool:
    """Whether a speaker may well have stopped for good after ``text``.

    English ("" or ``en...``) is looked at word by word; of other ``language`` (BCP 47) only the punctuation.
    """
    text = text.strip().rstrip(_CLOSING).replace("’", "'")  # noqa: RUF001
    if not has_words(text) or text.endswith(("..", "…")):
        return False
    end = text[-1]
    if language and not language.lower().startswith("en"):
        return end in _TERMINAL
    words = _WORD.findall(text.lower())
    if (end in _TERMINAL or end.isalnum()) and _ONLY_SHORT_ANSWERS.fullmatch(" ".join(words)):
        return True
    if end not in _TERMINAL:
        return False
    question = end == "?"
    if not question and len(words) < _LEAST_WORDS:
        return False
    return not _dangles(words, question) and (question or not _waits_for_its_main_clause(text))


def wait_ms(text: str | None, settings: Speaking, *, longest_pause_ms: int = 0, language: str = "") -> int:
    """How long a silence, counted from the last speech, must last to end the turn.

    Args:
        text: the transcript of the turn so far; None as long as there is none.
        settings: ``short_wait_ms`` and ``long_wait_ms``, between which the answer lies.
        longest_pause_ms: the longest pause of this turn that the speaker ended by going on. Who pauses long is given longer.
        language: of ``text``, see :func:`reads_as_finished`.
    """
    if text is None or not reads_as_finished(text, language):
        return settings.long_wait_ms
    return min(max(settings.short_wait_ms, round(_PATIENCE * longest_pause_ms)), settings.long_wait_ms)


def _dangles(words: list[str], question: bool) -> bool:
    """Whether the last word wants another one behind it."""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in _DANGLING:
        return True
    if question:
        return False
    if last in _PREPOSITIONS:
        return not (last in _PARTICLES and not _PHRASAL.isdisjoint(words))
    return last in _AUXILIARIES and before not in _PRONOUNS


def _waits_for_its_main_clause(text: str) -> bool:
    """Whether the last sentence is a leading clause alone: "If I stay three nights."."""
    sentence = _SENTENCE_END.split(text)[-1].lower()
    words = _WORD.findall(sentence)
    return bool(words) and words[0] in _LEADING and "," not in sentence and "then" not in words
