"""What a client may send, checked before anything is made of it: sizes, rates, the shape of audio. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rtvi_actors.frames.audio import BYTES_PER_SAMPLE, MAX_HZ, MIN_HZ

MAX_CHANNELS = 2
MAX_PIECE_MS = 2_000
"""Longest piece of audio in one message. The JavaScript client sends 16 ms, telephony 20 ms."""
BURST_SECONDS = 4
"""A client may send this many seconds' worth of messages at once: what it recorded while it connected."""
REPORT_INTERVAL_MS = 1_000
"""One kind of problem is reported once per this interval."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a client sent that cannot be used. ``kind`` names the sort of problem (one report per kind and second)."""

    kind: str
    text: str


def check_size(size_bytes: int, max_bytes: int) -> Problem | None:
    """Check the length of one WebSocket message."""
    if size_bytes <= max_bytes:
        return None
    return Problem("oversize", f"Message of {size_bytes} bytes dropped: at most {max_bytes} are allowed.")


def check_audio(size_bytes: int, rate_hz: int, channels: int) -> Problem | None:
    """Check one piece of PCM16 before it is resampled, so that no rate and no length can make the resampler work or grow."""
    if not MIN_HZ <= rate_hz <= MAX_HZ:
        return Problem("audio-rate", f"Audio of {rate_hz} Hz dropped: {MIN_HZ} to {MAX_HZ} Hz are understood.")
    if not 1 <= channels <= MAX_CHANNELS:
        return Problem("audio-channels", f"Audio of {channels} channels dropped: 1 or {MAX_CHANNELS} are understood.")
    if size_bytes % (BYTES_PER_SAMPLE * channels):
        return Problem("audio-length", f"Audio of {size_bytes} bytes dropped: not a whole number of 16 bit samples.")
    if size_bytes * 1_000 > MAX_PIECE_MS * rate_hz * channels * BYTES_PER_SAMPLE:
        return Problem("audio-piece", f"Audio of {size_bytes} bytes in one message dropped: at most {MAX_PIECE_MS} ms are allowed.")
    return None


class MessageBudget:
    """Messages per second of one client: a bucket that fills at ``per_s`` and holds ``BURST_SECONDS`` of it."""

    def __init__(self, per_s: int, now_ms: int) -> None:
        self.dropped = 0
        """Messages refused so far."""
        self._per_s = per_s
        self._capacity = float(per_s * BURST_SECONDS)
        self._tokens = self._capacity
        self._filled_ms = now_ms

    def take(self, now_ms: int) -> Problem | None:
        """Account for one message. A Problem says that it must be dropped."""
        self._tokens = min(self._capacity, self._tokens + (now_ms - self._filled_ms) * self._per_s / 1_000)
        self._filled_ms = now_ms
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        self.dropped += 1
        return Problem("rate", f"More than {self._per_s} messages per second: messages are dropped.")


class Throttle:
    """Lets one report of each kind of problem pass per second, so that a broken client gets no flood in answer."""

    def __init__(self) -> None:
        self.suppressed = 0
        """Reports held back so far."""
        self._last_ms: dict[str, int] = {}

    def allow(self, kind: str, now_ms: int) -> bool:
        """Say whether a problem of ``kind`` may be reported now. ``kind`` must come from a fixed set, not from the client."""
        last_ms = self._last_ms.get(kind)
        if last_ms is not None and now_ms - last_ms < REPORT_INTERVAL_MS:
            self.suppressed += 1
            return False
        self._last_ms[kind] = now_ms
        return True
