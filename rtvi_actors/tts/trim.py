"""Shorten the silence at both ends of a clause, as its audio streams by. Pure.

A voice begins with up to 80 ms (sometimes 300 ms) of silence and ends with 100-350 ms. The first delays what the user hears, the
last would add up at every clause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEADING_MS = 20
"""Silence kept before the first sound."""

_FRAME_MS = 5
_QUIET = 0.003
"""Root mean square below which a frame counts as silence. A soft "s" has 0.007."""

Samples = NDArray[np.float32]


class SilenceTrimmer:
    """One clause. Samples: float32 of shape (n,), from -1 to 1.

    Silence is held back until sound follows it, so pauses inside a clause stay as long as they are.

    Args:
        rate_hz: Sample rate.
        trailing_ms: Silence kept after the last sound.

    Attributes:
        cut_samples: Samples that were cut off before the first sound, known as soon as there is one.
    """

    def __init__(self, rate_hz: int, trailing_ms: int) -> None:
        self._frame = rate_hz * _FRAME_MS // 1_000
        self._leading = rate_hz * LEADING_MS // 1_000
        self._trailing = rate_hz * trailing_ms // 1_000
        self._rest: Samples = np.zeros(0, dtype=np.float32)
        """Less than a frame, or held silence and less than a frame."""
        self._heard = False
        self.cut_samples = 0

    def push(self, samples: Samples) -> Samples:
        """What may go out after ``samples`` came."""
        samples = np.concatenate([self._rest, samples])
        frames = samples[: len(samples) // self._frame * self._frame].reshape(-1, self._frame)
        loud = np.flatnonzero(np.sqrt(np.mean(frames * frames, axis=1)) >= _QUIET)
        if not len(loud):
            # Whole frames are dropped, so that where frames begin does not depend on how the audio came.
            old = 0 if self._heard else max(0, len(samples) - self._leading) // self._frame * self._frame
            self._rest = samples[old:]
            self.cut_samples += old
            return samples[:0]
        first, end = int(loud[0]) * self._frame, (int(loud[-1]) + 1) * self._frame
        start = 0 if self._heard else max(0, first - self._leading)
        self._heard = True
        self.cut_samples += start
        self._rest = samples[end:]
        return samples[start:end]

    def finish(self) -> Samples:
        """The last of it; nothing if no sound came at all."""
        rest = self._rest[: self._trailing] if self._heard else self._rest[:0]
        self._rest = self._rest[:0]
        return rest
