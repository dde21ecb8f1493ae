from __future__ import annotations

import array
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing import recordings
from rtvi_actors.testing.recordings import (
    RATE_HZ,
    audible_samples,
    available,
    read_wav,
    recorded,
    rms,
    speak,
    synthesized,
    write_wav,
)
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest

pytestmark = pytest.mark.unit


def tone(samples: int, amplitude: int = 3_000, rate_hz: int = RATE_HZ) -> bytes:
    wave_form = amplitude * np.sin(2 * np.pi * 400 * np.arange(samples) / rate_hz)
    return wave_form.astype("<i2").tobytes()


def write(path: Path, pcm: bytes, *, rate_hz: int = RATE_HZ, channels: int = 1, width: int = 2) -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate_hz)
        wav.writeframes(pcm)
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    pcm = tone(1_000)
    path = tmp_path / "new" / "folder" / "a.wav"
    write_wav(path, pcm, RATE_HZ)
    assert read_wav(path) == pcm


def test_two_channels_become_their_mean(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", array.array("h", [100, 300, -100, -300]).tobytes(), channels=2)
    assert array.array("h", read_wav(path)).tolist() == [200, -200]


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 48_000])
def test_another_rate_is_resampled(tmp_path: Path, rate_hz: int) -> None:
    pcm = read_wav(write(tmp_path / "a.wav", tone(rate_hz, rate_hz=rate_hz), rate_hz=rate_hz))
    assert abs(len(pcm) // 2 - RATE_HZ) <= 2
    assert rms(pcm) == pytest.approx(3_000 / 2**0.5, rel=0.05)


def test_a_file_that_ends_in_the_middle_of_a_sample_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(1_000), channels=2)
    path.write_bytes(path.read_bytes()[:-3])
    assert len(read_wav(path)) == 2 * 499


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "No such file"), (b"", "cut off"), (b"no RIFF at all, but long enough to be looked at", "RIFF")],
)
def test_what_is_no_wav_file_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "speech.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"speech\.wav: .*{complaint}"):
        read_wav(path)


def test_a_folder_is_no_wav_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        read_wav(tmp_path)


@pytest.mark.parametrize("width", [1, 3, 4])
def test_only_16_bit_samples_are_read(tmp_path: Path, width: int) -> None:
    with pytest.raises(ConfigError, match=f"{8 * width}-bit samples; only 16-bit"):
        read_wav(write(tmp_path / "a.wav", bytes(12), width=width))


def test_audible_samples_ends_with_the_last_loud_10_ms() -> None:
    assert audible_samples(b"") == 0
    assert audible_samples(bytes(RATE_HZ)) == 0
    assert audible_samples(bytes(1_600) + tone(800) + bytes(3_200)) == 1_600
    assert audible_samples(tone(800) + tone(800, amplitude=50)) == 800
    # A remainder of less than 10 ms counts as silence.
    assert audible_samples(tone(800 + 100)) == 800
    assert audible_samples(tone(480, rate_hz=24_000), 24_000) == 480


def test_rms() -> None:
    assert rms(b"") == 0.0
    assert rms(array.array("h", [300, -300]).tobytes()) == 300.0


def test_recordings_are_listed_with_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FOLDER", tmp_path)
    assert not available()
    with pytest.raises(ConfigError, match="apt-get install pocketsphinx-testdata"):
        recorded("cards")
    for folder in ("librivox", "cards"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "001.wav", tone(RATE_HZ // 2))
    (tmp_path / "librivox/transcription").write_text("<s> he was </s> (001)\n")
    (tmp_path / "cards/cards.transcription").write_text("<s> ten of clubs </s> (001)\n")
    assert available()
    [card] = recorded("cards")
    assert (card.name, card.text, card.duration_ms) == ("001", "ten of clubs", 500.0)


class ToneVoice:
    """A voice of one tone; counts how often it was loaded."""

    loaded = 0

    def __init__(self, config: Config) -> None:
        assert config.tts.model == "tone"

    def load(self) -> None:
        ToneVoice.loaded += 1

    async def stream(self, session: str, request: TtsRequest) -> AsyncIterator[TtsPiece]:
        for _ in request.text.split():
            yield TtsPiece(tone(SAMPLE_RATE_HZ // 10, rate_hz=SAMPLE_RATE_HZ), compute_ns=0)


async def test_texts_are_spoken_by_the_voice_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "_voices", {})
    monkeypatch.setattr(recordings, "load_class", lambda name, key: ToneVoice)
    monkeypatch.setattr(ToneVoice, "loaded", 0)
    config = Config().replace(tts={"backend": "tests:ToneVoice", "model": "tone"})
    pcm = await speak(config, "two words")
    # 200 ms of speech between 200 ms of silence on either side, at 16 kHz.
    assert len(pcm) == RATE_HZ * 6 // 10 * 2
    assert not any(pcm[: RATE_HZ // 5 * 2])
    assert not any(pcm[-RATE_HZ // 5 * 2 :])
    assert rms(pcm[RATE_HZ // 5 * 2 : -RATE_HZ // 5 * 2]) > 1_000
    spoken = await synthesized(config)
    assert [recording.text for recording in spoken] == list(recordings.LIBRIVOX_TEXTS)
    assert ToneVoice.loaded == 1
