from __future__ import annotations

import pytest

from rtvi_actors.tts.reading import Reader, word_marks
from rtvi_actors.tts.word_sounds import WordSound

pytestmark = pytest.mark.unit

BLANK, BEGIN, END = 0, 1, 2


class Tokenizer:
    """As Coqui's, without phonemes: a letter is its own code, and capitals are not in the vocabulary."""

    def __init__(self, *, add_blank: bool = True, use_eos_bos: bool = True) -> None:
        self.add_blank, self.use_eos_bos = add_blank, use_eos_bos
        self.phonemizer = None

    def text_cleaner(self, text: str, lang: str | None) -> str:
        return text.replace("2", "two")

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text if not letter.isupper()]

    def intersperse_blank_char(self, tokens: list[int]) -> list[int]:
        return [BLANK, *(token for each in tokens for token in (each, BLANK))]

    def pad_with_bos_eos(self, tokens: list[int]) -> list[int]:
        return [BEGIN, *tokens, END]


@pytest.mark.parametrize("add_blank", [True, False])
@pytest.mark.parametrize("use_eos_bos", [True, False])
def test_each_word_knows_its_tokens(add_blank: bool, use_eos_bos: bool) -> None:
    text = "  so 2 **Xen** ok. "
    reading = Reader(Tokenizer(add_blank=add_blank, use_eos_bos=use_eos_bos)).read(text)
    tokens = {text[word.begin : word.end]: reading.token_ids[word.first : word.last] for word in reading.words}
    said = {word: "".join(chr(token) for token in ids if token != BLANK) for word, ids in tokens.items()}
    assert said == {"so": "so", "2": "two", "**Xen**": "en", "ok.": "ok"}
    assert all(ids[0] != BLANK and ids[-1] != BLANK for ids in tokens.values())
    assert (reading.token_ids[0] == BEGIN) == use_eos_bos
    assert reading.ends_sentence


@pytest.mark.parametrize("text", [" ", "😀", "...", "\u65e5\u672c", "AB"])
def test_nothing_to_say(text: str) -> None:
    assert Reader(Tokenizer()).read(text).token_ids == []


def test_a_word_without_a_token_has_no_place() -> None:
    assert [(word.begin, word.end) for word in Reader(Tokenizer()).read("a B c").words] == [(0, 1), (4, 5)]


def test_marks_are_where_the_tokens_begin_and_end_behind_what_was_cut() -> None:
    words = [WordSound(0, 3, 1, 3), WordSound(4, 7, 4, 5)]
    # Tokens begin at the frames 0, 2, 5, 6, 16, 20.
    marks = word_marks(words, [2, 3, 1, 10, 4, 1], frame_samples=100.0, cut_samples=150.0)
    assert marks == [(50, 0), (450, 3), (1_450, 4), (1_850, 7)]
    assert word_marks(words, [2, 3, 1, 10, 4, 1], frame_samples=100.0, cut_samples=250.0)[0] == (0, 0)
