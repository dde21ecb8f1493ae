from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, EngineError, ModelMissingError
from rtvi_actors.models.prepare import path_of
from rtvi_actors.tts.coqui import CLAUSE_PAUSE_MS, SENTENCE_PAUSE_MS, CoquiTts
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest
from rtvi_actors.tts.spoken_text import spoken_text

pytestmark = pytest.mark.models

LONG = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a while."


@pytest.fixture(scope="module")
def tts() -> Iterator[CoquiTts]:
    backend = CoquiTts(Config())
    backend.load()
    backend.warm_up()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def whisper() -> Any:
    from faster_whisper import WhisperModel

    folder = path_of("whisper-tiny.en", Config())
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)


async def collect(pieces: AsyncIterator[TtsPiece]) -> list[TtsPiece]:
    return [piece async for piece in pieces]


async def spoken(tts: CoquiTts, text: str, **fields: Any) -> np.ndarray:
    """The samples of ``text``, from -1 to 1."""
    pieces = await collect(tts.stream("s", TtsRequest(text, **fields)))
    return np.frombuffer(b"".join(piece.pcm for piece in pieces), "<i2").astype(np.float32) / 32_768


def silence_ms(samples: np.ndarray) -> tuple[int, int]:
    """Milliseconds of near-silence at the begin and at the end."""
    frames = samples[: len(samples) // 120 * 120].reshape(-1, 120)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > 0.004)
    return int(loud[0]) * 5, (len(frames) - 1 - int(loud[-1])) * 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The capital of France is Paris.", ["capital", "france", "paris"]),
        ("I would like two apples and three bananas, please.", ["apples", "bananas", "please"]),
        ("It is 10% cheaper on Monday.", ["10", "cheaper", "monday"]),
        (LONG, ["quick", "brown", "fox", "lazy", "dog", "home", "sleep"]),
    ],
)
async def test_the_words_are_heard(tts: CoquiTts, whisper: Any, text: str, words: list[str]) -> None:
    import soxr

    samples = await spoken(tts, text)
    assert np.abs(samples).max() > 0.1
    segments, _ = whisper.transcribe(soxr.resample(samples, SAMPLE_RATE_HZ, 16_000), beam_size=1, language="en")
    heard = re.sub(r"[^a-z0-9 ]", "", " ".join(segment.text for segment in segments).lower().replace("%", " percent"))
    missed = [word for word in words if word not in heard.split()]
    # A voice with noise in it and the smallest Whisper: one word of many may go wrong.
    assert len(missed) <= len(words) // 3, heard


async def test_pieces_come_before_the_clause_is_done(tts: CoquiTts) -> None:
    pieces = await collect(tts.stream("s", TtsRequest(LONG)))
    computed_ns = [piece.compute_ns for piece in pieces]
    assert len(pieces) > 5
    assert computed_ns == sorted(computed_ns)
    assert computed_ns[0] < computed_ns[-1] / 2
    assert all(piece.pcm and len(piece.pcm) % 2 == 0 for piece in pieces)


@pytest.mark.parametrize("text", ["a", "No.", LONG])
def test_pieces_joined_equal_one_run(tts: CoquiTts, text: str) -> None:
    voice = tts._voice
    prior = voice.prior(tts._reader.read(text).token_ids).frames
    whole = voice.whole(prior)
    for frames in (8, 32, 50):
        joined = np.concatenate(list(voice.pieces(prior, frames)))
        assert len(joined) == len(whole) == prior.shape[2] * voice.hop
        assert np.abs(joined - whole).max() < 1e-3


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "We were in the room for a bit, at 10:30.",
        "\U0001f600 Caf\u00e9 **M\u00fcller** costs $5 million.",
        LONG,
        "?a",
        "1" * 40,
    ],
)
def test_the_model_reads_what_coqui_would(tts: CoquiTts, text: str) -> None:
    assert tts._reader is not None
    reading = tts._reader.read(text)
    assert reading.token_ids == tts._reader._tokenizer.text_to_ids(spoken_text(text))
    assert all(0 < word.first < word.last < len(reading.token_ids) for word in reading.words)
    if text != "?a":
        assert " ".join(text[word.begin : word.end] for word in reading.words) == text.removeprefix("\U0001f600 ")


async def words_of(tts: CoquiTts, text: str) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """The samples of ``text``, and (word, begins at, ends at) in seconds, from the marks."""
    pieces = await collect(tts.stream("s", TtsRequest(text)))
    assert not any(piece.marks for piece in pieces[1:])
    marks = pieces[0].marks
    samples = np.frombuffer(b"".join(piece.pcm for piece in pieces), "<i2").astype(np.float32) / 32_768
    for before, after in pairwise(marks):
        assert before[0] <= after[0]
        assert before[1] < after[1]
    assert marks[-1][0] <= len(samples) + SAMPLE_RATE_HZ // 50
    starts, ends = marks[::2], marks[1::2]
    return samples, [(text[a[1] : b[1]], a[0] / SAMPLE_RATE_HZ, b[0] / SAMPLE_RATE_HZ) for a, b in zip(starts, ends, strict=True)]


async def test_words_begin_where_whisper_hears_them(tts: CoquiTts, whisper: Any) -> None:
    import soxr

    apart_s: list[float] = []
    for text in (
        LONG,
        "We are in the middle of the city, and it has been raining for a week.",
        "Your room is on the second floor, at the end of the corridor, with a view of the lake.",
    ):
        samples, words = await words_of(tts, text)
        resampled = soxr.resample(samples, SAMPLE_RATE_HZ, 16_000)
        segments, _ = whisper.transcribe(resampled, beam_size=5, language="en", word_timestamps=True)
        heard = [(_letters(word.word), word.start) for segment in segments for word in segment.words]
        told = [(_letters(word), start) for word, start, _ in words]
        matcher = SequenceMatcher(None, [word for word, _ in heard], [word for word, _ in told], autojunk=False)
        for block in matcher.get_matching_blocks():
            for place in range(block.size):
                apart_s.append(abs(told[block.b + place][1] - heard[block.a + place][1]))
    assert len(apart_s) > 40
    # Whisper puts the pause behind a comma to the next word, and is half of the difference.
    assert sum(apart_s) / len(apart_s) < 0.12


@pytest.mark.parametrize(
    "text", ["In the room, there is a bed, a chair, and a table.", "It is $1,000, e.g. for you and me, until 10:30, at the latest."]
)
async def test_words_end_where_it_gets_quiet_behind_them(tts: CoquiTts, text: str) -> None:
    samples, words = await words_of(tts, text)
    assert [word for word, _, _ in words] == text.split()
    frames = samples[: len(samples) // 120 * 120].reshape(-1, 120)
    quiet = np.sqrt((frames**2).mean(axis=1)) < 0.012
    for (word, _, end_s), (_, next_s, _) in pairwise(words):
        if word.endswith(","):
            # In the middle of the pause it is quiet, and sound is near on both sides.
            first, last = int(end_s * 200), int(next_s * 200)
            assert quiet[first + 12 : last - 8].all(), word
            assert not quiet[first - 16 : first + 12].all(), word
            assert not quiet[last - 8 : last + 16].all(), word
    loud = np.flatnonzero(~quiet)
    assert abs(words[0][1] - loud[0] / 200) < 0.1
    assert abs(words[-1][2] - loud[-1] / 200) < 0.1


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


async def test_silence_at_the_ends_is_short(tts: CoquiTts) -> None:
    for text, pause_ms in (("Hello there, my friend.", SENTENCE_PAUSE_MS), ("and then we went home,", CLAUSE_PAUSE_MS)):
        leading_ms, trailing_ms = silence_ms(await spoken(tts, text))
        assert leading_ms <= 40
        assert pause_ms - 40 <= trailing_ms <= pause_ms + 60


@pytest.mark.parametrize("text", ["a", "7", "I", "?a", "caf\u00e9", "x" * 60, "1" * 60])
async def test_odd_text_is_spoken(tts: CoquiTts, text: str) -> None:
    assert len(await spoken(tts, text)) > SAMPLE_RATE_HZ // 20


@pytest.mark.parametrize("text", [" ", "...", "\U0001f389", "\u65e5\u672c\u8a9e"])
async def test_nothing_to_say_gives_no_piece(tts: CoquiTts, text: str) -> None:
    assert await collect(tts.stream("s", TtsRequest(text))) == []


async def test_speed(tts: CoquiTts) -> None:
    usual, fast = await spoken(tts, LONG), await spoken(tts, LONG, speed=1.5)
    assert 0.5 < len(fast) / len(usual) < 0.85


async def test_closing_stops_after_the_piece_in_work(tts: CoquiTts, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    real_pieces = tts._voice.pieces

    def counted(prior: Any, frames: int) -> Iterator[np.ndarray]:
        for piece in real_pieces(prior, frames):
            computed.append(prior.shape[2])
            yield piece

    monkeypatch.setattr(tts._voice, "pieces", counted)
    async with aclosing(tts.stream("s", TtsRequest(LONG))) as stream:
        await anext(stream)
    long_frames = computed[0]
    assert len(await collect(tts.stream("s", TtsRequest("Stop.")))) >= 1
    assert computed.count(long_frames) <= 4  # of 14: what was asked for and what was being computed when it was closed
    assert computed[-1] < long_frames


async def test_two_sessions_take_turns(tts: CoquiTts, pieces_in_order: Any) -> None:
    other = LONG.replace("fox", "cat")
    order = await pieces_in_order(tts, LONG, other)
    assert set(order[:2]) == {LONG, other}
    changes = sum(1 for before, after in pairwise(order) if before != after)
    assert changes >= 6, [text[:20] for text in order]


def test_weights_are_counted(tts: CoquiTts) -> None:
    assert 50_000_000 < tts.memory_bytes < 95_000_000


def test_an_unprepared_voice_says_what_to_run(tmp_path: Any) -> None:
    with pytest.raises(ModelMissingError, match="rtvi-actors models prepare"):
        CoquiTts(Config.from_dict({"models_dir": str(tmp_path)})).load()


def test_a_broken_voice_says_which_file(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelMissingError, match=re.escape(str(tmp_path))):
        CoquiTts(Config().replace(tts={"model": str(tmp_path)})).load()


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"tts\.num_gpus is above 0"):
        CoquiTts(Config().replace(tts={"num_gpus": 0.5})).load()


async def test_before_it_is_loaded() -> None:
    with pytest.raises(EngineError, match="not loaded"):
        await collect(CoquiTts(Config()).stream("s", TtsRequest("a")))
