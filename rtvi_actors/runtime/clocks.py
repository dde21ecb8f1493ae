"""What a peer's monotonic clock shows, told from ours by its pings. Pure: told the times.

Each ping carries when it was sent, and which ping of ours the peer heard last and how long ago. So each one gives a round trip and,
taking both ways as equally long, how far the clocks are apart; the error is at most half the round trip. Of the last samples the
one with the shortest trip is believed (the clock filter of NTP, RFC 5905 section 10).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SAMPLES = 32
"""8 s of pings: within that, clocks of 50 ppm drift by 0.4 ms."""


class _Sample(NamedTuple):
    round_trip_ns: int
    ahead_ns: int


class PeerClock:
    """The clock of one peer on another node."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)

    def ping(self, sent_ns: int, echo_ns: int, held_ns: int, now_ns: int) -> None:
        """A ping came at ``now_ns`` (ours), sent at ``sent_ns`` (the peer's).

        ``echo_ns``: when we sent the one that the peer heard last (ours), 0 for none yet; ``held_ns``: how long before this one
        was sent it had come.
        """
        round_trip_ns = now_ns - echo_ns - held_ns
        if echo_ns > 0 and round_trip_ns >= 0:
            self._samples.append(_Sample(round_trip_ns, sent_ns + round_trip_ns // 2 - now_ns))

    @property
    def round_trip_ns(self) -> int | None:
        """The shortest round trip of late; None before the first."""
        return min(self._samples).round_trip_ns if self._samples else None

    def ours_ns(self, theirs_ns: int, now_ns: int) -> int:
        """``theirs_ns``, a time on the peer's clock that is past, on ours. As long as nothing is known of the clock: ``now_ns``."""
        if not self._samples:
            return now_ns
        return max(0, min(now_ns, theirs_ns - min(self._samples).ahead_ns))
