"""The audio of one turn, and where to cut it when it is longer than a speech model's window. Pure; plain bytes, no numpy.

A speech model takes 29 s at most. A longer turn is cut at its pauses into parts, each decoded while the user still talks, so that
at the end only the rest remains to be decoded.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable

from rtvi_actors.stt.engine import SAMPLE_RATE_HZ

MAX_PART_SAMPLES = 29 * SAMPLE_RATE_HZ
MIN_PART_SAMPLES = 20 * SAMPLE_RATE_HZ
PAUSE_SAMPLES = 300 * SAMPLE_RATE_HZ // 1_000
HOP_SAMPLES = 20 * SAMPLE_RATE_HZ // 1_000
STRIDE = 4
"""Of the samples, every fourth is looked at: loudness needs no more, and the event loop is not held up."""


class TurnAudio:
    """The audio of one turn as it comes: PCM16 LE, 16 kHz, mono.

    Samples are numbered from the start of the session. Gaps are closed: what comes after one follows what came before it. What was
    had already is not taken twice. Beyond ``max_samples`` in all, new audio is dropped and counted in ``dropped_samples``.
    """

    def __init__(self, max_samples: int) -> None:
        self.dropped_samples = 0
        self._room_samples = max_samples
        self._pcm = bytearray()
        self._runs: list[tuple[int, int]] = []
        """(first sample, its place in the turn in samples) of each stretch without a gap; both rise."""
        self._taken = 0
        self._length = 0
        """In samples of the turn, gaps not counted: the parts taken so far, and everything."""

    def add(self, first_sample: int, pcm: bytes) -> None:
        """Append a piece. An odd last byte is left out."""
        count = len(pcm) // 2
        next_sample = self._next_sample()
        skip = min(max(next_sample - first_sample, 0), count) if self._runs else 0
        keep = min(count - skip, self._room_samples)
        self.dropped_samples += count - skip - keep
        if keep <= 0:
            return
        if not self._runs or first_sample > next_sample:
            self._runs.append((first_sample, self._length))
        self._pcm += pcm[skip * 2 : (skip + keep) * 2]
        self._length += keep
        self._room_samples -= keep

    def take_part(self) -> bytes:
        """Once more than 29 s wait: remove and return 20 to 29 s of them, up to a pause. b"" before that."""
        if len(self._pcm) <= MAX_PART_SAMPLES * 2:
            return b""
        cut = cut_sample(bytes(self._pcm[: MAX_PART_SAMPLES * 2]))
        part = bytes(self._pcm[: cut * 2])
        del self._pcm[: cut * 2]
        self._taken += cut
        return part

    @property
    def length(self) -> int:
        """Samples of the turn so far, parts that were taken included, gaps not. Places in the turn count so."""
        return self._length

    @property
    def taken(self) -> int:
        """The place before which everything was taken as a part."""
        return self._taken

    def between(self, first: int, last: int) -> bytes:
        """The audio from place ``first`` to place ``last`` (exclusive) of the turn, as far as it was not taken. It stays."""
        return bytes(self._pcm[max(0, first - self._taken) * 2 : max(0, last - self._taken) * 2])

    def until(self, last_sample: int) -> bytes:
        """What was not taken as a part, up to ``last_sample`` (exclusive). It stays."""
        run = bisect_left(self._runs, (last_sample, 0)) - 1
        if run < 0:
            return b""
        first_sample, place = self._runs[run]
        run_end = self._runs[run + 1][1] if run + 1 < len(self._runs) else self._length
        end = min(place + last_sample - first_sample, run_end)
        return bytes(self._pcm[: max(0, end - self._taken) * 2])

    def _next_sample(self) -> int:
        if not self._runs:
            return 0
        first_sample, place = self._runs[-1]
        return first_sample + self._length - place


def loudness(pcm: bytes) -> float:
    """How loud ``pcm`` (PCM16 LE) is: the mean distance from zero of every fourth sample. 0.0 for nothing."""
    samples = array("h", pcm[: len(pcm) & ~1])[::STRIDE]
    if sys.byteorder == "big":
        samples.byteswap()
    return sum(map(abs, samples)) / len(samples) if samples else 0.0


def cut_sample(pcm: bytes) -> int:
    """Where to cut ``pcm`` (PCM16 LE, 16 kHz, mono, more than 20.3 s): the middle of the quietest 300 ms between 20 s and its end.

    Of equally quiet places the latest, so that parts are long.
    """
    samples = array("h", pcm[MIN_PART_SAMPLES * 2 :])
    if sys.byteorder == "big":
        samples.byteswap()
    hops = [sum(map(abs, samples[at : at + HOP_SAMPLES : STRIDE])) for at in range(0, len(samples) - HOP_SAMPLES + 1, HOP_SAMPLES)]
    width = PAUSE_SAMPLES // HOP_SAMPLES
    if len(hops) < width:
        raise ValueError(f"{len(pcm)} bytes are too short to be cut")
    loudness = [sum(hops[at : at + width]) for at in range(len(hops) - width + 1)]
    quietest = min(range(len(loudness)), key=lambda at: (loudness[at], -at))
    return MIN_PART_SAMPLES + quietest * HOP_SAMPLES + PAUSE_SAMPLES // 2


def join_texts(texts: Iterable[str]) -> str:
    """One text of the parts' texts: a space between, without the "..." that a model puts where a part was cut off."""
    parts = [text.strip() for text in texts]
    parts = [part for part in parts if part]
    inner = [part.removesuffix("...").removesuffix("…").rstrip() for part in parts[:-1]]
    return " ".join([part for part in inner if part] + parts[-1:])
