"""Finds what holds up an event loop: a thread beside it looks at the loop's stack while the loop is late.

A :class:`LoopWatch` ticks on its loop; a thread (``heartbeat``, one in each process) calls :func:`look` and so sees a tick
that does not come. A loop that stood still for longer than the limit is logged once, with the code that it stood in. That code is
not to blame when the loop's thread waited for a core meanwhile, as Linux counts, or the whole process stood still: then the
machine was busy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from types import CodeType, FrameType

from rtvi_actors.observe.log_context import about

log = logging.getLogger(__name__)

TICK_S = 0.1
"""A loop ticks this often: what holds it up for longer than this and the limit together is always noticed."""
LOOK_S = 0.05
"""A loop that is late is looked at this often, others only when they would be."""
FROZEN_MS = 1_000
"""A loop that stands still for so long is told of while it does, since it may do so for good."""
LOG_PERIOD_S = 5.0
"""A loop is not complained about more often ..."""
BUSY_PERIOD_S = 60.0
"""... and the machine on its behalf no more often than this."""
DEPTH = 8
"""Innermost frames that are told."""

_LOOP_FILES = ("selectors.py", *(os.path.join("asyncio", file) for file in ("base_events.py", "events.py", "runners.py")))
_IMPORT_FILES = "<frozen importlib"


class _Watched:
    """What this process watches, and from when on a loop is late. One per process: loops are the process's."""

    def __init__(self) -> None:
        self.limit_ms = 100
        self.watches: tuple[LoopWatch, ...] = ()
        self.changing = threading.Lock()


_process = _Watched()


def set_limit(lag_ms: int) -> None:
    """Loops of this process that stand still for longer are logged."""
    _process.limit_ms = lag_ms


def look(thread_late_ms: int) -> None:
    """Look at all loops of this process. From a thread, every :func:`pause_s`; ``thread_late_ms``: how late that came."""
    for watch in _process.watches:
        watch.look(thread_late_ms)


def pause_s() -> float:
    """When to look next: half the limit after the next tick is due, so that a loop which ticks costs one look per tick."""
    return min((watch.until_late_s() for watch in _process.watches), default=TICK_S)


class LoopWatch:
    """The watch over one loop. ``start`` and ``stop`` are called on it.

    Attributes:
        stalls: how often the loop stood still for longer than the limit.
    """

    def __init__(self, name: str, session: str = "") -> None:
        self.name = name
        self.stalls = 0
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread_id = 0
        self._runner: CodeType | None = None
        self._due_ns = 0
        self._last_lag_ms = self._worst_ms = 0
        self._cpu_ns = self._waited_ns = 0
        self._schedstat = -1
        # Written by the thread that looks, under the lock; the loop reads them when the stall is over.
        self._looking = threading.Lock()
        self._seen_due_ns = 0
        self._stack: tuple[str, ...] = ()
        self._thread_late_ms = 0
        self._told = False
        self._quiet_until_ns = self._busy_until_ns = 0
        self._unsaid = 0

    def start(self) -> None:
        """Watch from now on."""
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._schedstat = _open(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._schedule()
        with _process.changing:
            _process.watches = (*_process.watches, self)

    def stop(self) -> None:
        """Watch no more. A loop that stood still until now is told. Harmless when it is not watched."""
        if self._overdue_ms() > _process.limit_ms:
            self._stood_still(self._overdue_ms())
        with _process.changing:
            _process.watches = tuple(watch for watch in _process.watches if watch is not self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def lag_ms(self) -> int:
        """How late the loop ran at its last tick, or is by now for its next: grows while it stands still. Any thread."""
        return max(self._last_lag_ms, self._overdue_ms())

    def until_late_s(self) -> float:
        """Until the next tick would be late, if it did not come. Any thread."""
        late_ns = self._due_ns + 500_000 * _process.limit_ms - time.monotonic_ns()
        return late_ns / 1e9 if late_ns > 0 else LOOK_S

    def take_worst_ms(self) -> int:
        """The worst lag since the last call."""
        worst, self._worst_ms = max(self._worst_ms, self._overdue_ms()), 0
        return worst

    # ------------------------------------------------------------------------------------------------------- on the loop

    def _schedule(self) -> None:
        assert self._loop is not None
        self._cpu_ns = time.process_time_ns()
        self._waited_ns = self._core_wait_ns()
        self._due_ns = time.monotonic_ns() + int(TICK_S * 1e9)
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self._runner is None:
            # With uvloop, the frame that called run_forever(): there is nothing of Python's in between.
            self._runner = sys._getframe(1).f_code
        self._last_lag_ms = lag_ms = self._overdue_ms()
        self._worst_ms = max(self._worst_ms, lag_ms)
        if lag_ms > _process.limit_ms:
            self._stood_still(lag_ms)
        self._schedule()
        self.on_tick(lag_ms)

    def on_tick(self, lag_ms: int) -> None:
        """For those who have something to do at each tick."""

    def _stood_still(self, lag_ms: int) -> None:
        self.stalls += 1
        used_ms = (time.process_time_ns() - self._cpu_ns) // 1_000_000
        waited_ms = (self._core_wait_ns() - self._waited_ns) // 1_000_000
        seen = self._seen_due_ns == self._due_ns
        stack, thread_late_ms = (self._stack, self._thread_late_ms) if seen else ((), 0)
        # Both stood still, and no CPU was used: it was the process that did not run.
        paused = 5 * thread_late_ms > 4 * lag_ms and 2 * used_ms < lag_ms
        busy = 2 * waited_ms > lag_ms or paused or not (stack or 2 * used_ms > lag_ms)
        took = f"{lag_ms} ms, using {used_ms} ms of CPU"
        if seen and self._told:
            self._say(logging.WARNING, f"{self.name} runs again; it stood still for {took}")
        elif time.monotonic_ns() < self._quiet_until_ns:
            self._unsaid += 1
        elif not busy:
            self._quiet_until_ns = time.monotonic_ns() + int(LOG_PERIOD_S * 1e9)
            self._say(logging.WARNING, f"{self.name} stood still for {took}, {_where(stack)}")
        elif time.monotonic_ns() >= self._busy_until_ns:
            self._busy_until_ns = time.monotonic_ns() + int(BUSY_PERIOD_S * 1e9)
            log.info("%s came late by %s: the machine was busy", self.name, took)

    def _say(self, level: int, text: str) -> None:
        more, self._unsaid = self._unsaid, 0
        with about(self._session):
            log.log(level, text + (f" ({more} more since the last such line)" if more else ""))

    # ------------------------------------------------------------------------------------- on the thread that looks at it

    def look(self, thread_late_ms: int) -> None:
        """Take the loop's stack if it is late. Never blocks: the thread has others to look after."""
        overdue_ms, due_ns = self._overdue_ms(), self._due_ns
        if 2 * overdue_ms < _process.limit_ms or self._timer is None or not self._looking.acquire(blocking=False):
            return
        try:
            fresh = self._seen_due_ns != due_ns
            if fresh or overdue_ms <= _process.limit_ms + 2_000 * LOOK_S:
                stack = self._take_stack()
                if self._due_ns != due_ns:
                    return  # it ran meanwhile: that was the stack of something else
                self._stack = stack
                self._told = self._told and not fresh
                self._thread_late_ms = 0 if fresh else self._thread_late_ms
                self._seen_due_ns = due_ns
            self._thread_late_ms = max(self._thread_late_ms, thread_late_ms)
            if overdue_ms > max(FROZEN_MS, _process.limit_ms) and self._stack and not self._told:
                self._told = True
                # In a thread of its own: the log's lock may be what the loop stands still with.
                text = f"{self.name} stands still for {overdue_ms} ms by now, {_where(self._stack)}"
                threading.Thread(target=self._say, args=(logging.WARNING, text), name="tell of a stall", daemon=True).start()
        finally:
            self._looking.release()

    def _take_stack(self) -> tuple[str, ...]:
        """The frames of the loop's thread that do not belong to the loop itself, innermost first. () when it only waits."""
        frame: FrameType | None = sys._current_frames().get(self._thread_id)
        stack: list[str] = []
        while frame is not None and len(stack) < DEPTH:
            code = frame.f_code
            if code is self._runner or code.co_filename.endswith(_LOOP_FILES):
                break
            # What is imported, and by whom, is told by the frames around the import.
            if not code.co_filename.startswith(_IMPORT_FILES):
                stack.append(f"{_short(code.co_filename)}:{frame.f_lineno} {code.co_name}")
            frame = frame.f_back
        return tuple(stack)

    def _core_wait_ns(self) -> int:
        """For how long the loop's thread was ready to run and had no core; 0 where the system does not tell."""
        return int(os.pread(self._schedstat, 64, 0).split()[1]) if self._schedstat >= 0 else 0

    def _overdue_ms(self) -> int:
        return max(0, (time.monotonic_ns() - self._due_ns) // 1_000_000) if self._timer is not None else 0


def _where(stack: tuple[str, ...]) -> str:
    return "in " + " < ".join(stack) if stack else "in code that is not Python's: perhaps another thread held the interpreter"


def _open(path: str) -> int:
    """A descriptor to read it again and again; -1 where there is no such thing."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _short(path: str) -> str:
    """The last three parts of a path, which tell the module."""
    return "/".join(path.replace("\\", "/").split("/")[-3:])
