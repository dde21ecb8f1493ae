"""The larger Whisper, which knows other languages. Needs `rtvi-actors models prepare whisper-base`."""

from __future__ import annotations

import re
import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, EngineError
from rtvi_actors.models.prepare import missing
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.stt.faster_whisper import FasterWhisper
from rtvi_actors.testing import recordings

CONFIG = Config().replace(stt={"model": "whisper-base", "language": "auto", "threads": 1})

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif("whisper-base" in missing(CONFIG), reason="run `rtvi-actors models prepare whisper-base`"),
]


@pytest.fixture(scope="module")
def whisper() -> Iterator[FasterWhisper]:
    backend = FasterWhisper(CONFIG)
    backend.load()
    backend.warm_up()
    yield backend
    backend.close()


async def hear(whisper: FasterWhisper, pcm: bytes, language: str = "") -> SttPiece:
    [piece] = [piece async for piece in whisper.stream("s", SttRequest(pcm=pcm, language=language))]
    return piece


def words(text: str) -> list[str]:
    return re.findall(r"[a-zäöüßáéíóúñ0-9']+", text.lower().replace("mr.", "mister").replace("-", " "))


def word_errors(reference: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


@pytest.mark.skipif(not recordings.available(), reason="Debian's pocketsphinx-testdata is not installed")
async def test_at_most_8_percent_of_the_words_of_a_reading_are_wrong(whisper: FasterWhisper) -> None:
    errors = count = 0
    for recording in recordings.recorded("librivox"):
        piece = await hear(whisper, recording.pcm)
        assert piece.language == "en"
        assert piece.compute_ns > 0
        errors += word_errors(words(recording.text), words(piece.text))
        count += len(words(recording.text))
    assert count > 60
    assert errors / count <= 0.08


async def test_silence_is_no_words(whisper: FasterWhisper) -> None:
    assert (await hear(whisper, bytes(64_000))).text == ""


def robot(voice: str, text: str, file: Path) -> bytes:
    """``text`` as espeak-ng says it: PCM16, 16 kHz."""
    import soxr

    subprocess.run(["espeak-ng", "-v", voice, "-s", "140", "-w", str(file), text], check=True, timeout=30)
    with wave.open(str(file)) as said:
        pcm, rate_hz = np.frombuffer(said.readframes(said.getnframes()), "<i2"), said.getframerate()
    return soxr.resample(pcm, rate_hz, 16_000).astype("<i2").tobytes()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the espeak-ng program is not installed")
@pytest.mark.parametrize(
    ("voice", "given", "text"),
    [
        ("de", "de-DE", "Guten Morgen, wie geht es Ihnen heute? Ich möchte gerne einen Kaffee trinken."),
        ("es", "", "Buenos días, ¿cómo está usted? Me gustaría tomar un café."),
    ],
    ids=["German, given", "Spanish, detected"],
)
async def test_other_languages(whisper: FasterWhisper, tmp_path: Path, voice: str, given: str, text: str) -> None:
    piece = await hear(whisper, robot(voice, text, tmp_path / "said.wav"), given)
    assert piece.language == voice
    # A robot's voice: half of the words will do.
    assert word_errors(words(text), words(piece.text)) <= len(words(text)) // 2, piece.text


async def test_languages_that_it_does_not_know(whisper: FasterWhisper) -> None:
    with pytest.raises(EngineError, match="does not know the language 'xx'"):
        await hear(whisper, bytes(32_000), "xx")
    with pytest.raises(ConfigError, match=r"stt\.language = 'xx': stt\.model = 'whisper-base' knows af, "):
        FasterWhisper(CONFIG.replace(stt={"language": "xx"})).load()
    with pytest.raises(ConfigError, match=r"stt\.language = 'de': stt\.model = 'whisper-tiny\.en' knows en"):
        FasterWhisper(Config().replace(stt={"language": "de"})).load()


def test_an_english_model_needs_no_detection() -> None:
    backend = FasterWhisper(Config().replace(stt={"language": "auto", "threads": 1}))
    backend.load()
    assert backend._languages([SttRequest(pcm=b"")], None) == ["en"]
    backend.close()
