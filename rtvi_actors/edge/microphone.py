"""The user's audio on its way in: pieces of any accepted shape become windows of 512 samples, 16 kHz, mono."""

from __future__ import annotations

from collections import deque

from rtvi_actors.edge.wire import AudioIn
from rtvi_actors.frames.audio import BYTES_PER_SAMPLE, USER_AUDIO_HZ, Resampler
from rtvi_actors.frames.types import Audio
from rtvi_actors.observe.latency import ArrivalTimes

WINDOW_SAMPLES = 512
WINDOW_BYTES = WINDOW_SAMPLES * BYTES_PER_SAMPLE
MAX_WAITING_WINDOWS = 938
"""30 s: what a client may have recorded while it connected. Beyond it the oldest windows are dropped and counted."""
BATCH_WINDOWS = 16
"""Windows handed on at a time, half a second ..."""
BATCH_INTERVAL_MS = 20
"""... and the pause between two batches: 25 times real time. The speaking stage keeps up with that; a link holds ten seconds."""


class Microphone:
    """One session's microphone. :meth:`push` takes pieces in, :meth:`pull` gives windows out, at most a batch at a time."""

    def __init__(self, arrivals: ArrivalTimes) -> None:
        self.dropped_windows = 0
        """Windows lost because a client sent far more than real time."""
        self._arrivals = arrivals
        self._shape = (USER_AUDIO_HZ, 1)
        self._resampler = Resampler(USER_AUDIO_HZ, USER_AUDIO_HZ)
        self._rest = bytearray()
        self._next_sample = 0
        self._received_samples = 0
        self._waiting: deque[Audio] = deque()

    @property
    def waiting_windows(self) -> int:
        """Windows ready to be handed on."""
        return len(self._waiting)

    def push(self, audio: AudioIn, now_ns: int) -> None:
        """Take one piece, already checked by ``limits.check_audio``, that arrived at ``now_ns`` (monotonic)."""
        pcm = self._convert(audio)
        samples = len(pcm) // BYTES_PER_SAMPLE
        self._arrivals.add(self._received_samples, samples, now_ns)
        self._received_samples += samples
        self._rest += pcm
        whole = len(self._rest) - len(self._rest) % WINDOW_BYTES
        for start in range(0, whole, WINDOW_BYTES):
            self._waiting.append(Audio(first_sample=self._next_sample, pcm=bytes(self._rest[start : start + WINDOW_BYTES])))
            self._next_sample += WINDOW_SAMPLES
        del self._rest[:whole]
        while len(self._waiting) > MAX_WAITING_WINDOWS:
            self._waiting.popleft()
            self.dropped_windows += 1

    def pull(self) -> list[Audio]:
        """The next windows, in order, at most ``BATCH_WINDOWS``."""
        return [self._waiting.popleft() for _ in range(min(BATCH_WINDOWS, len(self._waiting)))]

    def _convert(self, audio: AudioIn) -> bytes:
        shape = (audio.rate_hz, audio.channels)
        if shape != self._shape:
            # A client that changes its shape in mid-stream begins a new stream for the resampler; samples go on counting.
            self._shape = shape
            held_back = self._resampler.flush()
            self._resampler = Resampler(audio.rate_hz, USER_AUDIO_HZ, audio.channels)
            return held_back + self._resampler.push(audio.pcm)
        return self._resampler.push(audio.pcm)
