import asyncio
import re
import threading
import wave
from contextlib import aclosing
from pathlib import Path

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError, EngineLostError, ModelMissingError
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.stt.faster_whisper import LONG_FRAMES, SHORT_FRAMES, FasterWhisper

pytestmark = [pytest.mark.models]

LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
needs_speech = pytest.mark.skipif(not LIBRIVOX.is_dir(), reason="Debian's pocketsphinx-testdata is not installed")


@pytest.fixture(scope="module")
def whisper():
    backend = FasterWhisper(Config().replace(stt={"threads": 1, "max_batch": 8}))
    backend.load()
    yield backend
    backend.close()


def clips() -> dict[str, tuple[bytes, str]]:
    found = {}
    for line in (LIBRIVOX / "transcription").read_text().splitlines():
        if match := re.fullmatch(r"<s> (.*) </s> \((.*)\)", line.strip()):
            with wave.open(str(LIBRIVOX / f"{match[2]}.wav")) as file:
                found[match[2]] = (file.readframes(file.getnframes()), match[1])
    return found


def words(text: str) -> list[str]:
    text = text.lower().replace("mr.", "mister").replace("-", " ")
    return re.findall(r"[a-z0-9']+", text)


def word_errors(reference: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


async def decode(backend: FasterWhisper, pcm: bytes, session: str = "s1") -> SttPiece:
    pieces = [piece async for piece in backend.stream(session, SttRequest(pcm=pcm))]
    assert len(pieces) == 1
    return pieces[0]


async def waiting(backend: FasterWhisper, count: int) -> None:
    for _ in range(100):
        await asyncio.sleep(0)
    assert backend._worker.waiting == count


def error_rate(heard: dict[str, str]) -> float:
    recordings = clips()
    errors = sum(word_errors(words(text), words(heard[name])) for name, (_, text) in recordings.items())
    return errors / sum(len(words(text)) for _, text in recordings.values())


@needs_speech
async def test_at_most_15_percent_of_the_words_are_wrong_in_the_short_window(whisper):
    heard = {name: (await decode(whisper, pcm)).text for name, (pcm, _) in clips().items()}
    assert error_rate(heard) <= 0.15, heard


@needs_speech
async def test_at_most_15_percent_of_the_words_are_wrong_in_the_long_window(whisper):
    heard = {}
    for name, (pcm, _) in clips().items():
        [result] = await asyncio.to_thread(whisper._hear, [SttRequest(pcm=pcm)], LONG_FRAMES)
        heard[name] = result.text
    assert error_rate(heard) <= 0.15, heard


@needs_speech
async def test_a_batch_gives_the_texts_of_single_requests(whisper):
    recordings = [pcm for pcm, _ in clips().values()]
    single = [(await decode(whisper, pcm)).text for pcm in recordings]
    requests = [SttRequest(pcm=pcm) for pcm in recordings]
    batch = await asyncio.to_thread(whisper._hear, requests, SHORT_FRAMES)
    assert [result.text for result in batch] == single


@needs_speech
async def test_requests_of_several_sessions_share_a_run(whisper, monkeypatch):
    sizes, blocked, go = [], threading.Event(), threading.Event()
    hear = whisper._hear

    def counting(requests, frames):
        sizes.append(len(requests))
        blocked.set()
        assert go.wait(30)
        return hear(requests, frames)

    monkeypatch.setattr(whisper, "_hear", counting)
    pcm = next(iter(clips().values()))[0]
    first = asyncio.create_task(decode(whisper, pcm, "s0"))
    assert await asyncio.to_thread(blocked.wait, 30)
    others = [asyncio.create_task(decode(whisper, pcm, f"s{n}")) for n in range(1, 5)]
    await waiting(whisper, 4)
    go.set()
    pieces = await asyncio.gather(first, *others)
    assert sizes == [1, 4]
    assert len({piece.text for piece in pieces}) == 1
    assert all(piece.compute_ns > 0 for piece in pieces)
    assert all(piece.queue_ns > 0 for piece in pieces[1:])


@needs_speech
async def test_a_withdrawn_request_is_not_decoded(whisper, monkeypatch):
    decoded, blocked, go = [], threading.Event(), threading.Event()
    hear = whisper._hear

    def recording(requests, frames):
        decoded.extend(len(request.pcm) for request in requests)
        blocked.set()
        assert go.wait(30)
        return hear(requests, frames)

    monkeypatch.setattr(whisper, "_hear", recording)
    first = asyncio.create_task(decode(whisper, bytes(32_000)))
    assert await asyncio.to_thread(blocked.wait, 30)
    unwanted = asyncio.create_task(decode(whisper, bytes(48_000)))
    wanted = asyncio.create_task(decode(whisper, bytes(64_000)))
    await waiting(whisper, 2)
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    go.set()
    await asyncio.gather(first, wanted)
    assert decoded == [32_000, 64_000]


async def interim(backend: FasterWhisper, pcm: bytes, session: str = "s1") -> str:
    [piece] = [piece async for piece in backend.stream(session, SttRequest(pcm=pcm, final=False))]
    assert piece.compute_ns > 0
    return piece.text


@needs_speech
async def test_an_interim_is_decoded_like_a_final(whisper):
    pcm = next(iter(clips().values()))[0][:64_000]
    assert await interim(whisper, pcm) == (await decode(whisper, pcm)).text != ""


@needs_speech
@pytest.mark.parametrize("why", ["a final waits", "withdrawn"])
async def test_an_interim_is_given_up_behind_the_encoder(whisper, monkeypatch, why):
    generated, blocked, go = [], threading.Event(), threading.Event()
    encode, generate = whisper._encode, whisper._generate

    def encoding(requests, frames):
        blocked.set()
        assert go.wait(30)
        return encode(requests, frames)

    def generating(requests, encoded):
        generated.extend(requests)
        return generate(requests, encoded)

    monkeypatch.setattr(whisper, "_encode", encoding)
    monkeypatch.setattr(whisper, "_generate", generating)
    pcm = next(iter(clips().values()))[0]
    unwanted = asyncio.create_task(interim(whisper, pcm, "s1"))
    assert await asyncio.to_thread(blocked.wait, 30)
    if why == "withdrawn":
        unwanted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unwanted
        go.set()
        await decode(whisper, pcm, "s2")
    else:
        final = asyncio.create_task(decode(whisper, pcm, "s2"))
        await waiting(whisper, 1)
        go.set()
        assert await unwanted == ""
        assert (await final).text
    assert [request.final for request in generated] == [True]


@needs_speech
async def test_interims_are_decoded_one_by_one_on_a_cpu(whisper, monkeypatch):
    sizes, blocked, go = [], threading.Event(), threading.Event()
    encode = whisper._encode

    def encoding(requests, frames):
        sizes.append(len(requests))
        blocked.set()
        assert go.wait(30)
        return encode(requests, frames)

    monkeypatch.setattr(whisper, "_encode", encoding)
    first = asyncio.create_task(interim(whisper, bytes(32_000), "s0"))
    assert await asyncio.to_thread(blocked.wait, 30)
    others = [asyncio.create_task(interim(whisper, bytes(32_000), f"s{n}")) for n in range(1, 4)]
    await waiting(whisper, 3)
    go.set()
    await asyncio.gather(first, *others)
    assert sizes == [1, 1, 1, 1]


async def test_silence_and_nothing_are_no_words(whisper):
    assert (await decode(whisper, bytes(32_000))).text == ""
    assert (await decode(whisper, b"")).text == ""


async def test_a_humming_microphone_is_no_words(whisper):
    import numpy as np

    hum = np.sin(2 * np.pi * 100 * np.arange(32_000) / 16_000) * 3_000
    noise = np.random.default_rng(0).normal(0, 3_000, 24_000)
    for sound in (hum, noise):
        assert (await decode(whisper, sound.astype("<i2").tobytes())).text == ""


async def test_a_loop_is_decoded_again_in_the_long_window(whisper, monkeypatch):
    from rtvi_actors.stt.faster_whisper import _Heard

    windows = []

    def looping(requests, frames):
        windows.append(frames)
        text = "and so on " * 20 if frames == SHORT_FRAMES else "and so on."
        return [_Heard(text.strip(), 0.0, -0.1, "en") for _ in requests]

    monkeypatch.setattr(whisper, "_hear", looping)
    assert (await decode(whisper, bytes(32_000))).text == "and so on."
    assert windows == [SHORT_FRAMES, LONG_FRAMES]


@pytest.mark.parametrize("pcm", [b"odd", bytes(29 * 32_000 + 2)], ids=["odd bytes", "too long"])
async def test_what_is_no_utterance_is_refused(whisper, pcm):
    with pytest.raises(EngineError, match="29 s"):
        await decode(whisper, pcm)


async def test_a_language_that_the_model_does_not_know_is_refused(whisper):
    with pytest.raises(EngineError, match="language 'de'"):
        async with aclosing(whisper.stream("s1", SttRequest(pcm=bytes(32_000), language="de-AT"))) as pieces:
            await anext(pieces)


def test_windows_follow_the_length(whisper):
    assert whisper._frames(SttRequest(pcm=bytes(int(9.5 * 32_000)))) == SHORT_FRAMES
    assert whisper._frames(SttRequest(pcm=bytes(int(9.5 * 32_000) + 2))) == LONG_FRAMES
    assert whisper.memory_bytes > 10_000_000


def test_a_missing_model_is_told(tmp_path):
    with pytest.raises(ModelMissingError, match="cannot be loaded"):
        FasterWhisper(Config().replace(stt={"model": str(tmp_path)})).load()
    with pytest.raises(ModelMissingError, match="neither a model of `rtvi-actors models list` nor a folder"):
        FasterWhisper(Config().replace(stt={"model": str(tmp_path / "nowhere")})).load()


async def test_a_closed_backend_fails_what_waits():
    backend = FasterWhisper(Config().replace(stt={"threads": 1}))
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match="not loaded"):
        await decode(backend, bytes(32_000))
    backend.load()
    waiting = [asyncio.create_task(decode(backend, bytes(32_000), f"s{n}")) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.to_thread(backend.close)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert any(isinstance(result, EngineLostError) for result in results)
    assert not any(thread.name == "stt-faster-whisper" for thread in set(threading.enumerate()) - before)


@needs_speech
async def test_the_end_of_a_sentence_is_heard(whisper):
    """Behind its beginnings, which it mostly ends with a full stop, the model doubts that a sentence ends there."""
    less, beginnings = 0, 0
    for pcm, _ in clips().values():
        whole = await decode(whisper, pcm)
        assert 0.0 <= whole.sentence_end <= 1.0
        for share in (0.4, 0.5, 0.6, 0.7):
            half = await decode(whisper, pcm[: int(share * len(pcm) / 2) * 2] + bytes(3_200))
            beginnings += 1
            less += half.sentence_end < whole.sentence_end
    assert less >= 0.8 * beginnings


async def test_interims_tell_no_end(whisper):
    async with aclosing(whisper.stream("s1", SttRequest(pcm=bytes(32_000), final=False))) as pieces:
        assert (await anext(pieces)).sentence_end == -1.0
