"""Flame graphs of the processes that cost most, while one session talks and while eight do, into results/flames/.

py-spy looks at the stacks from outside: it needs root, or leave to trace other processes (sysctl kernel.yama.ptrace_scope=0).

    pip install py-spy
    python benchmarks/flames.py                         1 and 8 sessions, 30 s each
    python benchmarks/flames.py --sessions 8 --seconds 60
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
from record import RESULTS, ROOT, server
from rich.console import Console
from rich.progress import track
from session_cost import PERIOD_S, PROFILE, actor_class, clients

FOLDER = RESULTS / "flames"
SHOWN = {"EdgeActor": "edge", "SpeakingActor": "speaking", "SttEngine": "stt", "LlmEngine": "llm", "TtsEngine": "tts"}
"""The class of an actor -> the name of its picture."""
RATE_HZ = 100
SLACK_S = 30.0


def record(root: int, sessions: int, seconds: float) -> list[Path]:
    """Look at all processes of ``SHOWN`` below ``root`` for so long, at the same time.

    Raises:
        RuntimeError: py-spy could not; what it had to say is on stderr.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    for process in psutil.Process(root).children(recursive=True):
        if name := SHOWN.get(actor_class(process)):
            path = FOLDER / f"{name}-{sessions}.svg"
            # Not blocking: a process that is stopped for its stack misses heartbeats, and its sessions end.
            options = ["--nonblocking", "--format", "flamegraph", "--function", "--threads"]
            options += ["--rate", str(RATE_HZ), "--duration", f"{seconds:.0f}"]
            command = ["py-spy", "record", *options, "--output", path.name, "--pid", str(process.pid)]  # the picture's title
            running[path] = subprocess.Popen(command, executable=_py_spy(), cwd=FOLDER, stdout=subprocess.DEVNULL)
    try:
        for _ in track(range(int(seconds)), f"{sessions} sessions", console=Console(stderr=True), transient=True):
            time.sleep(1.0)
        failed = [path.name for path, process in running.items() if process.wait(SLACK_S)]
    finally:
        for process in running.values():
            process.kill()
    if failed:
        raise RuntimeError(f"py-spy failed for {', '.join(failed)}; it needs root, or leave to trace (see --help)")
    return list(running)


def _py_spy() -> str:
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise RuntimeError("there is no py-spy here: pip install py-spy")
    return found


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8], help="numbers of sessions, 16 at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long to look (30)")
    options = parser.parse_args()
    _py_spy()
    console = Console()
    with server(PROFILE) as (url, pid):
        for sessions in options.sessions:
            met: dict[str, int] = {}
            with clients(url, sessions, "speech", met):
                time.sleep(PERIOD_S)  # until the last of them has begun to speak
                paths = record(pid, sessions, options.seconds)
            for path in paths:
                console.print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1e3:.0f} kB")
            console.print(f"{sessions} sessions: {met['turns']} turns, {met['ended']} sessions lost", style="dim")
            time.sleep(3.0)  # places are given back


if __name__ == "__main__":
    main()
