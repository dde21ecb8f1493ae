from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, EngineError, ModelMissingError
from rtvi_actors.models.prepare import path_of
from rtvi_actors.tts import hibari
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest
from rtvi_actors.tts.hibari import LONGEST_MS, HibariTts

CONFIG = Config().replace(tts={"backend": "hibari", "model": "hibari-heart"})

pytest.importorskip("hibari", reason="pip install 'rtvi_actors[models]'")
pytestmark = pytest.mark.models

LONG = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a while."
TWO = "My brother lives in London. His daughter plays the violin."


@pytest.fixture(scope="module")
def tts() -> Iterator[HibariTts]:
    backend = HibariTts(CONFIG)
    backend.load()
    backend.warm_up()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def whisper() -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(path_of("whisper-tiny.en", CONFIG)), device="cpu", compute_type="int8", cpu_threads=1)


async def collect(pieces: AsyncIterator[TtsPiece]) -> list[TtsPiece]:
    return [piece async for piece in pieces]


def samples_of(pieces: list[TtsPiece]) -> np.ndarray:
    return np.frombuffer(b"".join(piece.pcm for piece in pieces), "<i2").astype(np.float32) / 32_768


async def spoken(tts: HibariTts, text: str, **fields: Any) -> np.ndarray:
    """The samples of ``text``, from -1 to 1."""
    return samples_of(await collect(tts.stream("s", TtsRequest(text, **fields))))


def heard(whisper: Any, samples: np.ndarray) -> list[str]:
    import soxr

    segments, _ = whisper.transcribe(soxr.resample(samples, SAMPLE_RATE_HZ, 16_000), beam_size=1, language="en")
    return re.findall(r"[a-z0-9]+", " ".join(segment.text for segment in segments).lower().replace("%", " percent"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The capital of France is Paris.", ["the", "capital", "of", "france", "is", "paris"]),
        ("I would like two apples and three bananas, please.", ["apples", "bananas", "please"]),
        ("It is 10% cheaper on **Monday**. 🎉", ["10", "cheaper", "on", "monday"]),
        (LONG, ["quick", "brown", "fox", "lazy", "dog", "home", "sleep"]),
        (TWO, ["brother", "london", "daughter", "violin"]),
    ],
)
async def test_the_words_are_heard(tts: HibariTts, whisper: Any, text: str, words: list[str]) -> None:
    samples = await spoken(tts, text)
    assert np.abs(samples).max() > 0.1
    understood = heard(whisper, samples)
    assert [word for word in words if word not in understood] == [], understood


async def test_the_times_of_words_are_those_of_the_sound(tts: HibariTts, whisper: Any) -> None:
    """What is cut off behind a word's end is not heard, and all before it is."""
    pieces = await collect(tts.stream("s", TtsRequest(TWO)))
    samples, marks = samples_of(pieces), pieces[0].marks
    assert all(piece.marks == [] for piece in pieces[1:])
    assert marks == sorted(marks)
    ends = {TWO[:char].split()[-1]: sample for sample, char in marks[1::2]}
    assert list(ends) == TWO.split()
    assert marks[-1] == (pytest.approx(len(samples), abs=SAMPLE_RATE_HZ // 4), len(TWO))
    said = heard(whisper, samples)
    for word, count in (("brother", 2), ("London.", 5), ("daughter", 7)):
        cut = np.concatenate([samples[: ends[word]], np.zeros(SAMPLE_RATE_HZ // 2, np.float32)])
        understood = heard(whisper, cut)
        assert understood[:count] == said[:count]
        assert len(understood) <= count + 1, "Whisper may guess one: 'lives' goes on with 'in'"


async def test_words_that_are_read_otherwise(tts: HibariTts) -> None:
    text = "Well, 🎉 on 1 May **3** of 1,000 paid $4.50, 日本 and left."
    [first, *_] = await collect(tts.stream("s", TtsRequest(text)))
    words = [text[begin:end] for (_, begin), (_, end) in zip(first.marks[::2], first.marks[1::2], strict=True)]
    assert words[0] == "Well,"
    assert words[-2:] == ["and", "left."]
    assert "🎉" not in words
    assert all(0 <= before[0] <= after[0] and before[1] <= after[1] for before, after in pairwise(first.marks))


async def test_silence_is_shortened(tts: HibariTts) -> None:
    samples = await spoken(tts, TWO)
    frames = samples[: len(samples) // 120 * 120].reshape(-1, 120)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > 0.004)
    assert loud[0] * 5 <= 40
    assert (len(frames) - loud[-1]) * 5 <= hibari.SENTENCE_PAUSE_MS + 60
    assert np.diff(loud).max() * 5 <= hibari.SENTENCE_PAUSE_MS + 100, "nor is there a gap between the sentences"


@pytest.mark.parametrize(
    "text", ["a", "7", "I", "?a", "caf\u00e9", "x" * 60, "Xzibit", "Gr\u00fc\u00dfe, \u65e5\u672c ok \U0001f642"]
)
async def test_odd_text_is_spoken(tts: HibariTts, text: str) -> None:
    assert len(await spoken(tts, text)) > SAMPLE_RATE_HZ // 10


@pytest.mark.parametrize(
    "text", [" ", "...", "\U0001f389", "\u65e5\u672c\u8a9e", "\u041f\u0440\u0438\u0432\u0435\u0442", "**", "\x00"]
)
async def test_nothing_to_say_gives_no_piece(tts: HibariTts, text: str) -> None:
    assert await collect(tts.stream("s", TtsRequest(text))) == []


async def test_the_longest_clauses_stay_bounded(tts: HibariTts) -> None:
    assert len(await spoken(tts, "word " * 80)) > 10 * SAMPLE_RATE_HZ
    assert len(await spoken(tts, "1" * 400)) == LONGEST_MS * SAMPLE_RATE_HZ // 1_000


async def test_speed(tts: HibariTts) -> None:
    usual, fast = await spoken(tts, LONG), await spoken(tts, LONG, speed=1.5)
    assert 0.5 < len(fast) / len(usual) < 0.85


async def test_two_sessions_take_turns(tts: HibariTts, pieces_in_order: Any) -> None:
    other = LONG.replace("fox", "cat")
    order = await pieces_in_order(tts, LONG, other)
    changes = sum(1 for before, after in pairwise(order) if before != after)
    assert changes >= 6, [text[:20] for text in order]


async def test_closing_stops_after_the_run_in_work(tts: HibariTts, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    voice = tts._voice
    assert voice is not None
    say = voice.say

    def counted(reading: Any, run: tuple[int, int], *rest: Any) -> Any:
        runs.append(reading.phonemes[slice(*run)])
        return say(reading, run, *rest)

    monkeypatch.setattr(voice, "say", counted)
    stream = tts.stream("s", TtsRequest("Go on. " * 50))
    asked = asyncio.create_task(anext(stream))
    while not runs:
        await asyncio.sleep(0.001)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    async with aclosing(tts.stream("s", TtsRequest("Stop."))) as pieces:
        await anext(pieces)
    assert len(runs) <= 10, "of 50"


async def test_it_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    backend = HibariTts(CONFIG)
    backend.load()
    assert backend.memory_bytes > 5_000_000
    assert len(await spoken(backend, "Hello.")) > 0
    await asyncio.to_thread(backend.close)


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelMissingError, match=r"hibari\.onnx cannot be read: No such file"):
        HibariTts(CONFIG.replace(tts={"model": str(tmp_path)})).load()
    import onnx

    graph = onnx.helper.make_graph([], "empty", [], [])
    (tmp_path / "hibari.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelMissingError, match="is not the model of hibari-tts"):
        HibariTts(CONFIG.replace(tts={"model": str(tmp_path)})).load()
    (tmp_path / "hibari.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelMissingError, match="is not the model of hibari-tts"):
        HibariTts(CONFIG.replace(tts={"model": str(tmp_path)})).load()
    with pytest.raises(ConfigError, match=r"tts\.num_gpus is above 0"):
        HibariTts(CONFIG.replace(tts={"num_gpus": 0.5})).load()


async def test_before_it_is_loaded() -> None:
    with pytest.raises(EngineError, match="not loaded"):
        await collect(HibariTts(CONFIG).stream("s", TtsRequest("a")))
