"""Recordings with a pause put between two of their words.

The place is a boundary between words in the middle third, as the speech model times them, moved to the quietest 20 ms around it.
The pause is filled with noise as loud as the quietest moment of the recording, and the sound fades into it and out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rtvi_actors.config import Config
from rtvi_actors.models.prepare import path_of
from rtvi_actors.testing.recordings import RATE_HZ, Recording, audible_samples

Samples = np.ndarray[Any, np.dtype[np.float64]]
"""Mono, in PCM16 units."""

SAMPLES_PER_MS = RATE_HZ // 1_000
FADE_SAMPLES = 8 * SAMPLES_PER_MS
STEP_SAMPLES = 5 * SAMPLES_PER_MS
QUIET_SAMPLES = 20 * SAMPLES_PER_MS
REACH_SAMPLES = 60 * SAMPLES_PER_MS
"""How far a place may lie from where the model thinks that two words meet."""
APART_SAMPLES = 300 * SAMPLES_PER_MS
"""Least distance of two places in one recording."""
LEAD_IN_MS = 500
TAIL_MS = 2_500
"""Noise before and behind each case: the longest wait has to fit into it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One utterance to be judged. ``pcm``: PCM16 LE mono, 16 kHz. ``pause_ms``: 0 for a recording as it is."""

    name: str
    pause_ms: int
    pcm: bytes
    speech_end: int
    """Sample behind the last audible one."""
    pause: tuple[int, int]
    """First sample of the pause, and the one behind it; (0, 0) without one."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and the samples at which it may be parted, best first."""

    recording: Recording
    places: tuple[int, ...]


def find_places(recordings: list[Recording], config: Config, count: int) -> list[Clip]:
    """The ``count`` quietest boundaries between words of each recording, fewer where there are not as many.

    Raises:
        ModelMissingError: the speech model is not prepared.
    """
    from faster_whisper import WhisperModel

    model = WhisperModel(str(path_of(config.stt.model, config)), device="cpu", compute_type="int8", local_files_only=True)
    clips = []
    for recording in recordings:
        segments, _ = model.transcribe(samples_of(recording.pcm).astype(np.float32) / 32_768, language="en", word_timestamps=True)
        words = [word for segment in segments for word in segment.words]
        # What begins without a space goes on with the word before it.
        meetings = [(a.end + b.start) / 2 for a, b in pairwise(words) if b.word.startswith(" ")]
        places = quietest_places(samples_of(recording.pcm), [round(at_s * RATE_HZ) for at_s in meetings], count)
        clips.append(Clip(recording, places))
    return clips


def quietest_places(samples: Samples, boundaries: list[int], count: int) -> tuple[int, ...]:
    """Of ``boundaries`` those in the middle third of the sound (or the one nearest to its middle), each moved, quietest first."""
    end = audible_samples(samples.astype("<i2").tobytes())
    middle = [at for at in boundaries if end / 3 <= at <= 2 * end / 3]
    if not middle:
        middle = sorted(boundaries, key=lambda at: abs(at - end / 2))[:1]
    moved = sorted((_quietest(samples, at) for at in middle), key=lambda place: _loudness(samples, place))
    places: list[int] = []
    for place in moved:
        if len(places) < count and all(abs(place - other) >= APART_SAMPLES for other in places):
            places.append(place)
    return tuple(places)


def cases(clips: list[Clip], pauses_ms: list[int]) -> list[Case]:
    """Each recording whole, and parted by each of ``pauses_ms`` at each of its places."""
    found = []
    for clip in clips:
        name = clip.recording.name.rpartition("-")[2]
        found.append(_case(f"{name} whole", clip.recording, 0, 0))
        for number, place in enumerate(clip.places, start=1):
            found += [_case(f"{name} place {number}", clip.recording, place, pause_ms) for pause_ms in pauses_ms]
    return found


def samples_of(pcm: bytes) -> Samples:
    """PCM16 LE as numbers."""
    return np.frombuffer(pcm, dtype="<i2").astype(np.float64)


def with_pause(samples: Samples, place: int, pause: Samples) -> Samples:
    """``samples`` parted at ``place`` by ``pause``; the sound fades over 8 ms into the pause and out of it."""
    before, after = samples[:place].copy(), samples[place:].copy()
    fade = min(FADE_SAMPLES, len(before), len(after), len(pause) // 2)
    ramp = np.linspace(1.0, 0.0, fade)
    if fade:
        before[-fade:] *= ramp
        after[:fade] *= ramp[::-1]
    return np.concatenate([before, pause, after])


def room_noise(samples: Samples, count: int, seed: int = 0) -> Samples:
    """``count`` samples as loud as the recording's quietest 10 ms."""
    step = RATE_HZ // 100
    whole = samples[: len(samples) // step * step].reshape(-1, step)
    level = float(np.sqrt((whole**2).mean(axis=1)).min()) if len(whole) else 0.0
    return np.random.default_rng(seed).normal(0.0, level, count)


def _case(name: str, recording: Recording, place: int, pause_ms: int) -> Case:
    samples = samples_of(recording.pcm)
    samples = samples[: audible_samples(recording.pcm)]
    lead_in = room_noise(samples, LEAD_IN_MS * SAMPLES_PER_MS)
    tail = room_noise(samples, TAIL_MS * SAMPLES_PER_MS)
    noise = room_noise(samples, pause_ms * SAMPLES_PER_MS, seed=1)
    parted = with_pause(samples, place, noise) if pause_ms else samples
    whole = np.concatenate([lead_in, parted, tail])
    pause_from = len(lead_in) + place
    return Case(
        name=name,
        pause_ms=pause_ms,
        pcm=np.clip(np.rint(whole), -32_768, 32_767).astype("<i2").tobytes(),
        speech_end=len(lead_in) + len(parted),
        pause=(pause_from, pause_from + len(noise)) if pause_ms else (0, 0),
    )


def _quietest(samples: Samples, at: int) -> int:
    """The quietest place around ``at``."""
    first, last = max(QUIET_SAMPLES, at - REACH_SAMPLES), min(len(samples) - QUIET_SAMPLES, at + REACH_SAMPLES)
    return min(range(first, max(first + 1, last), STEP_SAMPLES), key=lambda place: _loudness(samples, place))


def _loudness(samples: Samples, place: int) -> float:
    around = samples[max(0, place - QUIET_SAMPLES // 2) : place + QUIET_SAMPLES // 2]
    return float(np.sqrt((around**2).mean()))
