"""From a clause to the token ids of a Coqui model, and to the tokens of each of its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from rtvi_actors.tts.phonemes import pronouncer
from rtvi_actors.tts.spoken_text import spoken_text
from rtvi_actors.tts.word_sounds import WordSound, word_sounds

REMEMBERED_WORDS = 4_096
"""Words of which the sound is kept."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A clause as the model takes it. ``token_ids`` is empty when there is nothing to say."""

    token_ids: list[int]
    words: list[WordSound]
    """The words of the clause's own text that sound, with their places in ``token_ids`` as ``first`` and ``last``."""
    ends_sentence: bool


class Reader:
    """Reads for a Coqui ``TTSTokenizer``. To be used by one thread at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pronounce: Callable[[str], str] = lru_cache(REMEMBERED_WORDS)(pronouncer(tokenizer.phonemizer))
        self._read_alone: Callable[[str], str] = lru_cache(REMEMBERED_WORDS)(self._read_word)

    def read(self, text: str) -> Reading:
        """What ``TTSTokenizer.text_to_ids`` gives for the text as it is spoken, and which token belongs to which word."""
        tokenizer = self._tokenizer
        spoken = spoken_text(text)
        if not spoken:
            return Reading([], [], ends_sentence=False)
        read = self._clean(spoken)
        phonemes = tokenizer.phonemizer.phonemize(read, separator="") if tokenizer.phonemizer else read
        # One by one: the vocabulary lacks some symbols, which leave no token.
        ids = [tokenizer.encode(phoneme) for phoneme in phonemes]
        token_ids = [token for tokens in ids for token in tokens]
        if not token_ids:
            return Reading([], [], ends_sentence=False)
        step, before = (2, 1) if tokenizer.add_blank else (1, 0)
        if tokenizer.add_blank:
            token_ids = tokenizer.intersperse_blank_char(token_ids)
        if tokenizer.use_eos_bos:
            token_ids, before = tokenizer.pad_with_bos_eos(token_ids), before + 1
        places = [before + step * count for count in accumulate(map(len, ids), initial=0)]
        words = [
            WordSound(word.begin, word.end, places[word.first], places[word.last] - step + 1)
            for word in word_sounds(text, read, phonemes, self._read_alone, self._pronounce)
            if places[word.first] < places[word.last]
        ]
        return Reading(token_ids, words, spoken.endswith((".", "!", "?")))

    def _read_word(self, word: str) -> str:
        if word.isascii() and word.isalpha():
            return word
        spoken = spoken_text(word)
        return self._clean(spoken) if spoken else ""

    def _clean(self, text: str) -> str:
        cleaner = self._tokenizer.text_cleaner
        cleaned: str = cleaner(text, lang=None) if cleaner else text
        return cleaned


def word_marks(words: list[WordSound], token_frames: list[int], frame_samples: float, cut_samples: float) -> list[tuple[int, int]]:
    """``(sample, char)`` for the beginning and the end of each word (see ``TtsPiece.marks``).

    Args:
        words: of a Reading.
        token_frames: how many frames each token lasts.
        frame_samples: samples of a frame.
        cut_samples: samples that were cut off at the beginning.
    """
    frames = list(accumulate(token_frames, initial=0))
    marks = []
    for word in words:
        for char, token in ((word.begin, word.first), (word.end, word.last)):
            marks.append((max(round(frames[token] * frame_samples - cut_samples), 0), char))
    return marks
