"""What every benchmark shares: the stamp of machine and commit, a JSON line per run, percentiles, and a server of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
READY_DEADLINE_S = 180.0


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` of ``values`` do not exceed (nearest rank); nan for none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> str:
    """Processor and cores, as the operating system tells them."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """Short hash of the checkout, with + when it has changes other than results."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changes = [*git, "status", "--porcelain", "-uno", "--", ":!benchmarks/results"]
    changed = subprocess.run(changes, capture_output=True, text=True, check=False).stdout.strip()
    return (head or "unknown") + ("+" if changed else "")


def append(benchmark: str, figures: dict[str, Any]) -> Path:
    """Append one JSON line to ``results/<benchmark>.jsonl``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{benchmark}.jsonl"
    line = {
        "benchmark": benchmark,
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **figures,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return path


@contextlib.contextmanager
def server(*arguments: str, stderr: IO[str] | None = None) -> Iterator[tuple[str, int]]:
    """``rtvi-actors serve`` in a process of its own, on a free port: its URL and its pid. Its log goes to ``stderr``, if given.

    It stays in this session of the terminal: Linux shares the cores between sessions first (autogroup), and a client alone in
    its own was not run for up to 460 ms while the server's models worked, which looked like gaps in the bot's voice.

    Raises:
        RuntimeError: it ended, or was not ready within 180 s. What it had to say about that is on stderr.
    """
    command = [sys.executable, "-m", "rtvi_actors.cli.main", "serve", *arguments, "--port", "0", "--app", f"bench-{os.getpid()}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT, process_group=0)
    try:
        yield _ready_url(process), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ready_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    # A server that hangs says nothing: reading its output ends only when it does.
    timer = threading.Timer(READY_DEADLINE_S, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
    finally:
        timer.cancel()
        timer.join()
    raise RuntimeError("the server did not become ready; see its messages above")
