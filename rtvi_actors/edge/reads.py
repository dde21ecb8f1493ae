"""What many clients send, looked at together: a process that is woken for each message works with cold caches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY_S = 0.016
"""What was read is looked at no more often than this. Where there are many sessions a message waits for half of it on average, a
quarter of a VAD window; where there is one it does not wait, since it comes no more often."""


class Reads:
    """Bytes of all clients of a process, in the order of their arrival. On the event loop only."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[bytes], None], bytes]] = []
        self._looked_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, take: Callable[[bytes], None], data: bytes) -> None:
        """Have ``take(data)`` called: before this returns, or at the next look."""
        self._waiting.append((take, data))
        if self._timer is None:
            wait_s = self._looked_s + EVERY_S - time.monotonic()
            if wait_s <= 0:
                self.look()
            else:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self.look)

    def look(self) -> None:
        """Take all that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for take, data in waiting:
            try:
                take(data)
            except Exception:
                log.exception("%d bytes of a client could not be taken", len(data))
        self._looked_s = time.monotonic()
