"""The pulse of a process: how late its event loop runs, and a thread that tells its peers even while the loop is blocked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rtvi_actors.runtime import loop_watch
from rtvi_actors.runtime.loop_watch import LOOK_S, LoopWatch

BEAT_S = 0.25
"""Peers are told this often, give or take a look at the loops: the thread wakes up for both at once."""
LATE_MS = 250
"""A loop that ran later than this was stalled: what it has not read yet proves nothing about its peers."""


class Heartbeat(LoopWatch):
    """Ticks on the running event loop, beats on a thread of its own, which also looks after all loops of the process.

    ``on_tick`` is called on the loop. After a stall it is skipped once, so that sockets are read first. ``on_beat`` is called
    on the thread with the loop's lag in ms; it must not block.
    """

    def __init__(self, name: str, on_tick: Callable[[], None], on_beat: Callable[[int], None]) -> None:
        super().__init__(f"the event loop of {name}")
        self._call_on_tick = on_tick
        self._on_beat = on_beat
        self._postponed = False
        self._stopping = threading.Event()
        self.start()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the ticks and the thread."""
        super().stop()
        self._stopping.set()
        self._thread.join()

    def on_tick(self, lag_ms: int) -> None:
        """Call the callback, unless it has to wait for a tick."""
        # Only once in a row: with a loop that is always late, the dead must be found too, and between two ticks it has read.
        self._postponed = lag_ms > LATE_MS and not self._postponed
        if not self._postponed:
            self._call_on_tick()

    def _beat(self) -> None:
        beat_s = time.monotonic() + BEAT_S
        due_s = time.monotonic() + loop_watch.pause_s()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            now_s = time.monotonic()
            loop_watch.look(int((now_s - due_s) * 1_000))
            if now_s >= beat_s - LOOK_S:
                self._on_beat(self.lag_ms())
                # Absolute, so that beats do not get rarer; but one that came late is not made up for.
                beat_s = max(beat_s, now_s - BEAT_S) + BEAT_S
            due_s = now_s + min(BEAT_S, loop_watch.pause_s())
