from __future__ import annotations

import shutil
from typing import Any

import pytest

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models.piper_to_coqui import PHONEMIZER
from rtvi_actors.models.torch_setup import ensure_torchaudio
from rtvi_actors.tts import phonemes
from rtvi_actors.tts.phonemes import register_with_coqui

pytestmark = pytest.mark.models

# Debian's program is version 1.51, the library 1.52, which says "four" otherwise. And the program stresses a lone "what" more:
# it speaks a text, where the library reads words, as it did when the voice was trained.
SENTENCES = [
    "Hello, world!",
    "The capital of France is Paris.",
    "Well, that's ten percent of it... isn't it?",
    "I can't believe he's read the book that I read yesterday!",
    "Photosynthesis is how plants turn light into food.",
    "a",
    "Wait, not now? No; yes: maybe.",
    "We went to New York and had a croissant at the caf\u00e9.",
    "One two three, five six seven eight nine ten.",
    "...",
    "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a while.",
]


@pytest.fixture
def phonemizers() -> Any:
    ensure_torchaudio()
    from TTS.tts.utils.text.phonemizers import PHONEMIZERS

    return PHONEMIZERS


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the espeak-ng program is not installed")
@pytest.mark.parametrize("sentence", SENTENCES)
def test_phonemes_are_those_of_coquis_own(phonemizers: Any, sentence: str) -> None:
    from TTS.tts.utils.text.phonemizers import ESpeak

    register_with_coqui()
    library = phonemizers[PHONEMIZER](language="en-us")
    assert library.phonemize(sentence, separator="") == ESpeak("en-us").phonemize(sentence, separator="")


def test_without_the_library_the_program_takes_its_place(phonemizers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from TTS.tts.utils.text.phonemizers import ESpeak

    def no_library(language: str) -> None:
        raise ModelMissingError("no phonemes")

    monkeypatch.setattr(phonemes, "EspeakLibrary", no_library)
    monkeypatch.setattr(ESpeak, "is_available", lambda: True)
    monkeypatch.setitem(phonemizers, PHONEMIZER, None)
    register_with_coqui()
    assert phonemizers[PHONEMIZER] is ESpeak
    monkeypatch.setattr(ESpeak, "is_available", lambda: False)
    with pytest.raises(ModelMissingError, match="no phonemes"):
        register_with_coqui()
