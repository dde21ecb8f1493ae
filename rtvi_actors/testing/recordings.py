"""Recorded human speech for tests, demo and benchmarks: where it lies, what is said in it, and where its sound ends.

The recordings are those of Debian's package ``pocketsphinx-testdata`` (BSD-2-Clause, Carnegie Mellon University): five clips of a
LibriVox reading and five of playing cards read aloud. Where the package is missing, :func:`synthesized` speaks the same texts with
the TTS backend of a configuration, and whoever reports figures has to say so.
"""

from __future__ import annotations

import asyncio
import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from rtvi_actors.config import Config
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.errors import ConfigError
from rtvi_actors.runtime.process import load_class
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ as VOICE_RATE_HZ
from rtvi_actors.tts.engine import TtsBackend, TtsRequest

FOLDER = Path("/usr/share/pocketsphinx/test/data")
RATE_HZ = 16_000
AUDIBLE_RMS = 100.0
"""Loudness, in PCM16 units, above which 10 ms of sound count as audible."""

_voices: dict[tuple[str, str], TtsBackend] = {}

SETS = {"librivox": "librivox/transcription", "cards": "cards/cards.transcription"}
LIBRIVOX_TEXTS = (
    "and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for them",
    "he was not an ill disposed young man",
    "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "had he married a more amiable woman he might have been made still more respectable than he was",
    "he might even have been made amiable himself",
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance. ``pcm``: PCM16 LE mono, 16 kHz. ``text``: what is said, lower case, no punctuation."""

    name: str
    text: str
    pcm: bytes

    @property
    def duration_ms(self) -> float:
        """Length, silence included."""
        return len(self.pcm) / 2 / RATE_HZ * 1_000


def available() -> bool:
    """Whether the recorded speech is installed."""
    return all((FOLDER / path).exists() for path in SETS.values())


def recorded(name: str) -> list[Recording]:
    """The clips of a set: ``librivox`` or ``cards``.

    Raises:
        ConfigError: the package is not installed; says how to install it.
    """
    listing = FOLDER / SETS[name]
    if not listing.exists():
        raise ConfigError(f"no recordings in {listing.parent}: apt-get install pocketsphinx-testdata")
    lines = re.findall(r"<s>\s*(.*?)\s*</s>\s*\((.+?)\)", listing.read_text(encoding="utf-8"))
    return [Recording(clip, text, read_wav(listing.parent / f"{clip}.wav")) for text, clip in lines]


async def synthesized(config: Config) -> list[Recording]:
    """The texts of the ``librivox`` set, spoken by the configuration's voice, which is loaded for it in this process.

    Raises:
        ModelMissingError: the voice is not prepared.
    """
    return [Recording(f"synthesized-{number}", text, await speak(config, text)) for number, text in enumerate(LIBRIVOX_TEXTS)]


async def speak(config: Config, text: str) -> bytes:
    """``text`` in the configuration's voice: PCM16 LE mono, 16 kHz, with 200 ms of silence before and after."""
    backend = await _voice(config)
    pcm = b"".join([piece.pcm async for piece in backend.stream("recordings", TtsRequest(text=text))])
    samples = soxr.resample(np.frombuffer(pcm, dtype="<i2"), VOICE_RATE_HZ, RATE_HZ).astype("<i2").tobytes()
    silence = bytes(RATE_HZ // 5 * 2)
    return silence + samples + silence


async def _voice(config: Config) -> TtsBackend:
    """The voice of ``config``, loaded once in a process."""
    key = (config.tts.backend, config.tts.model)
    if key not in _voices:
        backend: TtsBackend = load_class(backend_class("tts", config.tts.backend), "tts.backend")(config)
        await asyncio.to_thread(backend.load)
        _voices[key] = backend
    return _voices[key]


def read_wav(path: Path) -> bytes:
    """A WAV file of 16-bit samples as PCM16 LE mono, 16 kHz.

    Raises:
        ConfigError: it cannot be read, or has another sample format.
    """
    try:
        with wave.open(str(path)) as wav:
            channels, width, rate_hz = wav.getnchannels(), wav.getsampwidth(), wav.getframerate()
            pcm = wav.readframes(wav.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise ConfigError(f"{path}: not a WAV file that can be read: {str(error) or 'it is cut off'}") from error
    if width != 2:
        raise ConfigError(f"{path}: {8 * width}-bit samples; only 16-bit WAV files are read")
    whole = len(pcm) // (2 * channels) * 2 * channels  # the file may end in the middle of a sample
    mono = np.frombuffer(pcm[:whole], dtype="<i2").reshape(-1, channels).mean(axis=1).astype(np.int16)
    if rate_hz != RATE_HZ:
        mono = soxr.resample(mono, rate_hz, RATE_HZ)
    return mono.astype("<i2").tobytes()


def write_wav(path: Path, pcm: bytes, rate_hz: int) -> None:
    """Write PCM16 LE mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate_hz)
        wav.writeframes(pcm)


def audible_samples(pcm: bytes, rate_hz: int = RATE_HZ) -> int:
    """How many samples there are up to the end of the last audible 10 ms: recordings end in silence."""
    window = rate_hz // 100
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    whole = samples[: len(samples) // window * window].reshape(-1, window)
    loud = np.flatnonzero(np.sqrt((whole**2).mean(axis=1)) > AUDIBLE_RMS)
    return int(loud[-1] + 1) * window if len(loud) else 0


def rms(pcm: bytes) -> float:
    """Loudness of PCM16 LE; 0.0 for nothing."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    return float(np.sqrt((samples**2).mean())) if len(samples) else 0.0
