"""When a silence ends the user's turn: how long to wait after what was said.

Whisper puts a full stop behind almost any fragment, so a full stop alone proves nothing: these rules look for what a speaker
would not stop at. A wrong "unfinished" costs the difference of the waits; a wrong "finished" ends the turn in mid-sentence, and the
user who goes on is heard out all the same (the turn reopens), but the answer has to begin anew.
"""

from __future__ import annotations

import re
from typing import Final

from rtvi_actors.config import Speaking

_TERMINAL: Final = frozenset(".!?。！？।؟")  # noqa: RUF001  the marks of other scripts are meant
_CLOSING: Final = "\"'”’»)]」』 "  # noqa: RUF001
_PATIENCE: Final = 1.0
"""A silence must be this much as long as the longest pause that the speaker already made inside the turn."""
FINISHED: Final = 1.0
UNCLEAR: Final = 0.5
UNFINISHED: Final = 0.0


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
# A sentence that opens with one of these needs a second clause ...
_LEADING: Final = _words("if when whenever while although though since once unless because after before until whereas")
# ... and so may "Had he asked".
_INVERTED: Final = "had"

# Behind a number there mostly comes another one, or what is counted.
_NUMBERS: Final = _words("zero one two three four five six seven eight nine ten eleven twelve hundred thousand")

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
NOT_TOLD: Final = -1.0
_CERTAIN: Final = 0.88
_SURE: Final = 0.72
_DOUBTED: Final = 0.6
"""Shares that Whisper gives to the end of a sentence. Ten recordings and 40 beginnings of them: 0.78 to 0.97 behind most whole
sentences, 0.4 to 0.74 behind most beginnings that it writes like one ("How do you marry the more amiable?")."""


def has_words(text: str) -> bool:
    """Whether a transcript holds anything but punctuation."""
    return any(character.isalnum() for character in text)


def how_finished(text: str, language: str = "", sentence_end: float = NOT_TOLD) -> float:
    """How likely a speaker has stopped for good after ``text``: ``FINISHED``, ``UNCLEAR``, what lies between, or ``UNFINISHED``.

    English ("" or ``en...``) is looked at word by word; of other ``language`` (BCP 47) only the punctuation. ``sentence_end`` (see
    the frame Transcript) is what the speech model heard: words that read like a whole sentence prove less where it doubts that,
    and where it is certain, a sentence needs no comma.
    """
    likely = _by_words(text, language, certain=sentence_end >= _CERTAIN)
    if sentence_end == NOT_TOLD:
        return likely
    share = min(1.0, max(0.0, (sentence_end - _DOUBTED) / (_SURE - _DOUBTED)))
    return min(likely, UNCLEAR + share * (FINISHED - UNCLEAR))


def wait_ms(probability: float | None, settings: Speaking, *, longest_pause_ms: int = 0) -> int:
    """How long a silence, counted from the last speech, must last to end the turn.

    Args:
        probability: how likely the user has finished; None as long as there is no transcript.
        settings: 1.0 takes ``short_wait_ms``, 0.5 ``middle_wait_ms``, 0.0 ``long_wait_ms``, others what lies between.
        longest_pause_ms: the longest pause of this turn that the speaker ended by going on. Who pauses long is given longer.
    """
    short_ms, middle_ms, long_ms = settings.short_wait_ms, settings.middle_wait_ms, settings.long_wait_ms
    if probability is None:
        return long_ms
    if probability >= UNCLEAR:
        wait = middle_ms + (short_ms - middle_ms) * (probability - UNCLEAR) / (FINISHED - UNCLEAR)
    else:
        wait = long_ms + (middle_ms - long_ms) * (probability - UNFINISHED) / (UNCLEAR - UNFINISHED)
    return min(max(round(wait), round(_PATIENCE * longest_pause_ms)), long_ms)


def _by_words(text: str, language: str, *, certain: bool) -> float:
    text = text.strip().rstrip(_CLOSING).replace("’", "'")  # noqa: RUF001
    if not has_words(text) or text.endswith(("..", "…")):
        return UNFINISHED
    words = _WORD.findall(text.lower())
    end = text[-1]
    if end not in _TERMINAL and not end.isalnum():
        return UNFINISHED
    if language and not language.lower().startswith("en"):
        return FINISHED if end in _TERMINAL else UNCLEAR if len(words) > 1 else UNFINISHED
    if _ONLY_SHORT_ANSWERS.fullmatch(" ".join(words)):
        return FINISHED
    return _english(text, words, certain)


def _english(text: str, words: list[str], certain: bool) -> float:
    """Whether the last word wants another one behind it, and the last sentence a second clause."""
    end = text[-1]
    question = end == "?"
    if _dangles(words, question) or (len(words[-1]) == 1 and end not in _TERMINAL):
        return UNFINISHED
    sentence = _SENTENCE_END.split(text)[-1].lower()
    first, second = [*_WORD.findall(sentence), "", ""][:2]
    one_clause = "," not in sentence and not re.search(r"\bthen\b", sentence)
    if first in _LEADING and one_clause and not question:
        return UNFINISHED
    if first == _INVERTED and second in _PRONOUNS and one_clause and not certain:
        return UNCLEAR
    if end in _TERMINAL:
        short = len(words) < _LEAST_WORDS and not question
        return FINISHED if not short else UNFINISHED if words[-1].isdecimal() or words[-1] in _NUMBERS else UNCLEAR
    return UNCLEAR if len(words) > 1 else UNFINISHED


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
