"""The pulse of a process: how late its event loop runs, and a thread that tells its peers even while the loop is blocked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

TICK_S = 0.1
"""The loop's lateness is measured this often."""
BEAT_S = 0.25
"""Peers are told this often."""
LATE_MS = 250
"""A loop that ran later than this was stalled: what it has not read yet proves nothing about its peers."""


class Heartbeat:
    """Ticks on the running event loop, beats on a thread of its own.

    ``on_tick`` is called on the loop. After a stall it is skipped once, so that sockets are read first. ``on_beat`` is called
    on the thread with the loop's lag in ms; it must not block.
    """

    def __init__(self, name: str, on_tick: Callable[[], None], on_beat: Callable[[int], None]) -> None:
        self._on_tick = on_tick
        self._on_beat = on_beat
        self._loop = asyncio.get_running_loop()
        self._last_lag_ms = 0
        self._postponed = False
        self._due_ns = 0
        self._timer = self._next_tick()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {name}", daemon=True)
        self._thread.start()

    def lag_ms(self) -> int:
        """How late the loop ran at its last tick, or is by now for its next: grows while the loop is blocked. Any thread."""
        return max(self._last_lag_ms, self._overdue_ms())

    def stop(self) -> None:
        """End the ticks and the thread."""
        self._timer.cancel()
        self._stopping.set()
        self._thread.join()

    def _overdue_ms(self) -> int:
        return max(0, (time.monotonic_ns() - self._due_ns) // 1_000_000)

    def _next_tick(self) -> asyncio.TimerHandle:
        self._due_ns = time.monotonic_ns() + int(TICK_S * 1e9)
        return self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._last_lag_ms = self._overdue_ms()
        self._timer = self._next_tick()
        # Only once in a row: with a loop that is always late, the dead must be found too, and between two ticks it has read.
        self._postponed = self._last_lag_ms > LATE_MS and not self._postponed
        if not self._postponed:
            self._on_tick()

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_S):
            self._on_beat(self.lag_ms())
