"""Ending processes for sure. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from rtvi_actors.runtime.supervise import end_processes, start_time_of

pytestmark = pytest.mark.unit

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start ``python -c code`` and wait for its first line; whatever is left at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
        return process

    yield run
    for process in started:
        process.kill()
        process.wait(5)
        assert process.stdout is not None
        process.stdout.close()


SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def parent(lifetime_s: float) -> str:
    """A program that starts another one, prints its pid and ends after ``lifetime_s``."""
    return (
        "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"print(c.pid, flush=True); time.sleep({lifetime_s})"
    )


def running(pid: int) -> bool:
    return start_time_of(pid) != 0.0


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while running(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.005)


@pytest.mark.parametrize("code", [SLEEP, DEAF])
def test_kills_what_does_not_end_by_itself(start: Start, code: str) -> None:
    process = start(code)
    assert end_processes({process.pid: start_time_of(process.pid)}, 0.0) == []
    assert process.wait(5) == -signal.SIGKILL


def test_kills_a_stopped_process(start: Start) -> None:
    process = start(SLEEP)
    os.kill(process.pid, signal.SIGSTOP)
    assert end_processes({process.pid: start_time_of(process.pid)}, 0.0) == []
    assert process.wait(5) == -signal.SIGKILL


def test_lets_a_process_end_by_itself_within_its_grace(start: Start) -> None:
    process = start("import time; print('up', flush=True); time.sleep(0.1); raise SystemExit(7)")
    assert end_processes({process.pid: start_time_of(process.pid)}, 5.0) == []
    assert process.wait(5) == 7


def test_leaves_a_process_alone_that_only_has_the_pid(start: Start) -> None:
    process = start(SLEEP)
    assert end_processes({process.pid: start_time_of(process.pid) - 1.0}, 0.0) == []
    assert end_processes({process.pid: 0.0}, 0.0) == []
    assert process.poll() is None


def test_ends_what_the_process_started(start: Start) -> None:
    process = start(parent(60))
    child = int(process.first_line)  # type: ignore[attr-defined]
    assert running(child)
    end_processes({process.pid: start_time_of(process.pid)}, 0.0)
    until_gone(child)


def test_ends_the_orphans_of_a_process_that_ended_by_itself(start: Start) -> None:
    process = start(parent(0.1))
    child = int(process.first_line)  # type: ignore[attr-defined]
    assert end_processes({process.pid: start_time_of(process.pid)}, 5.0) == []
    until_gone(child)


def test_several_at_once_and_repeated(start: Start) -> None:
    processes = [start(SLEEP), start(DEAF)]
    targets = {process.pid: start_time_of(process.pid) for process in processes}
    assert end_processes(targets, 0.0) == []
    assert [process.wait(5) for process in processes] == [-signal.SIGKILL] * 2
    assert end_processes(targets, 0.0) == []


def test_start_time_of_nobody_and_of_a_zombie(start: Start) -> None:
    assert start_time_of(2**22 + 1) == 0.0
    process = start("print('up', flush=True)")
    until_gone(process.pid)  # it has ended, and nobody has waited for it
    assert process.wait(5) == 0


def test_leaves_no_file_descriptor(start: Start) -> None:
    process = start(SLEEP)
    before = len(os.listdir("/proc/self/fd"))
    end_processes({process.pid: start_time_of(process.pid)}, 0.0)
    assert len(os.listdir("/proc/self/fd")) == before
