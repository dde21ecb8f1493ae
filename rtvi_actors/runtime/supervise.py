"""Ends processes for sure: dead, frozen or unwilling, with what they started. Linux.

A process is meant by its pid and its start time together, since pids are used again. Signals go through a pidfd, which stays with
the process that was checked. SIGKILL also ends a stopped (SIGSTOP) process at once, where ``ray.kill`` takes five seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_TIME_FIELD = 19
"""Index of a process's start time among the fields behind the command's closing bracket in ``/proc/PID/stat``."""

KILL_DEADLINE_S = 2.0
"""How long a killed process may take to be gone; only one that sits in the kernel takes longer than a moment."""


def start_time_of(pid: int) -> float:
    """When process ``pid`` was started, in seconds since the machine's start; 0.0 when there is none, or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return 0.0
    return int(fields[START_TIME_FIELD]) / os.sysconf("SC_CLK_TCK")


def end_processes(processes: Mapping[int, float], grace_s: float) -> list[int]:
    """Wait ``grace_s`` for ``processes`` (pid -> start time) to end by themselves, then kill them and all that they started.

    Blocks up to ``grace_s`` + 2 s: call it in a thread. A pid that another process has by now is left alone.

    Returns:
        The pids that still run: none, unless the kernel holds them.
    """
    with contextlib.ExitStack() as stack:
        watched: dict[int, int] = {}
        for pid, started in processes.items():
            _watch(pid, started, watched, stack)
        asked = dict(watched)
        _watch_children(list(asked), watched, stack)
        _watch_children(_wait(asked, grace_s), watched, stack)
        for fd in watched.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        return _wait(watched, KILL_DEADLINE_S)


def _watch(pid: int, started: float, watched: dict[int, int], stack: contextlib.ExitStack) -> None:
    """Open a pidfd on ``pid`` if it is still the process that was started at ``started``."""
    if pid in watched or started == 0.0:
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    stack.callback(os.close, fd)
    if start_time_of(pid) == started:  # checked with the pidfd open: it cannot become another process any more
        watched[pid] = fd


def _watch_children(pids: Sequence[int], watched: dict[int, int], stack: contextlib.ExitStack) -> None:
    """Watch also everything that ``pids``, which still run, have started."""
    import psutil  # here: a stage process imports this module for start_time_of, and must stay small

    for pid in pids:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                _watch(child.pid, start_time_of(child.pid), watched, stack)


def _wait(watched: Mapping[int, int], timeout_s: float) -> list[int]:
    """Wait until all have ended (a pidfd reads as ready then), ``timeout_s`` at most. Returns those that have not."""
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    running = {fd: pid for pid, fd in watched.items()}
    for fd in running:
        poll.register(fd, select.POLLIN)
    while running:
        for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1_000):
            poll.unregister(fd)
            del running[fd]
        if time.monotonic() >= deadline:
            break
    return list(running.values())
