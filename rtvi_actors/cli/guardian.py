"""A small process beside ``serve`` that clears up when ``serve`` is killed: Ray's agents would stay for a minute, sockets for ever.

::

    python -m rtvi_actors.cli.guardian SERVE_PID SERVE_STARTED FOLDER RAY_PID:STARTED ...
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from rtvi_actors.runtime.supervise import end_processes, start_time_of

LOOK_MS = 1_000
"""How often it looks which processes there are: those of a dead parent are nobody's children any more."""


def start(folder: Path, roots: Mapping[int, float]) -> subprocess.Popen[bytes]:
    """Guard this process: when it dies, ``roots`` (pid -> start time) and all that they started are killed, ``folder`` is removed.

    In a session of its own, so that Ctrl-C does not reach it. Whoever ends in order kills it.
    """
    me = os.getpid()
    arguments = [str(me), repr(start_time_of(me)), str(folder), *(f"{pid}:{started!r}" for pid, started in roots.items())]
    command = [sys.executable, "-m", "rtvi_actors.cli.guardian", *arguments]
    return subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def with_descendants(roots: Mapping[int, float]) -> dict[int, float]:
    """``roots`` and everything below them, pid -> start time; what has ended is left out."""
    found = {}
    for root, started in roots.items():
        if start_time_of(root) != started:
            continue
        found[root] = started
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(root).children(recursive=True):
                found[child.pid] = start_time_of(child.pid)
    return found


def _main(pid: int, started: float, folder: str, roots: dict[int, float]) -> None:
    known = dict(roots)
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while start_time_of(pid) == started and not poll.poll(LOOK_MS):
            # Raylets die with serve by themselves, and then their children are known from here only.
            known = with_descendants(roots)
    end_processes(known, 0.0)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(
        int(sys.argv[1]),
        float(sys.argv[2]),
        sys.argv[3],
        {int(pid): float(since) for pid, since in (argument.split(":") for argument in sys.argv[4:])},
    )
