"""What a session costs: CPU of each of our processes, per session, beyond what the idle app takes.

Shared groups. Clients send a microphone's 20 ms frames in real time, from a process of their own that does not count: *silence*,
all samples zero, as a muted microphone sends; *noise*, what lies between the words of the recordings (without them low noise); or
*speech*, an utterance every 15 s, which is answered. The CPU time of each process is read before and after; that of the app without
a session, in the same run, is taken off.

    python benchmarks/session_cost.py                          1, 8 and 16 sessions, silence and noise, 20 s each
    python benchmarks/session_cost.py --sessions 8 --sounds noise --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import psutil
from record import ROOT, append, machine, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.testing.client import RtviClient
from rtvi_actors.testing.recordings import RATE_HZ, Recording, available, recorded, synthesized

PROFILE = "clusters/dense.toml"
SETTLE_S = 3.0
"""After the start, and after sessions have begun or ended: warm pools and caches are filled."""
SOUNDS = ("silence", "noise", "speech")
SOUND_S = 120.0
PERIOD_S = 15.0
"""From one utterance of a session to its next."""
QUIET_RMS = 60.0
"""PCM16 units below which a window of a recording is between words, or is left out."""
WINDOW = 512
ROLES = {
    "EdgeActor": "edge",
    "SpeakingActor": "speaking",
    "SttActor": "stt",
    "LlmActor": "llm",
    "TtsActor": "tts",
    "SttEngine": "engines",
    "LlmEngine": "engines",
    "TtsEngine": "engines",
    "Scheduler": "scheduler",
}
"""The class of an actor -> how it is called here."""
COLUMNS = tuple(dict.fromkeys(ROLES.values()))
READY_DEADLINE_S = 60.0


# ----------------------------------------------------------------------------------------------------------- the other process


def noise() -> bytes:
    """A room in which nobody speaks: PCM16 LE mono, 16 kHz, of ``SOUND_S``."""
    wanted = int(SOUND_S * RATE_HZ)
    random = np.random.default_rng(1)
    quiet = [window for clip in (recorded("librivox") if available() else ()) for window in _quiet(clip.pcm)]
    if not quiet:
        return np.rint(random.normal(0.0, QUIET_RMS / 3, wanted)).astype("<i2").tobytes()
    # Windows overlap by half under a curve of constant power, so that no seam clicks.
    fade = np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)
    sound = np.zeros(wanted + WINDOW)
    for start in range(0, wanted, WINDOW // 2):
        sound[start : start + WINDOW] += fade * quiet[random.integers(len(quiet))]
    return np.rint(sound[:wanted]).astype("<i2").tobytes()


def _quiet(pcm: bytes) -> list[Any]:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return [window for window in windows if np.sqrt((window**2).mean()) < QUIET_RMS]


def speech(clips: list[Recording], number: int, sessions: int) -> bytes:
    """What session ``number`` says, as often as it fits into ``SOUND_S``. The sessions begin evenly spread over a period."""
    period_bytes = int(PERIOD_S * RATE_HZ) * 2
    said = [clips[(number + place) % len(clips)].pcm.ljust(period_bytes, b"\0") for place in range(int(SOUND_S / PERIOD_S))]
    return bytes(period_bytes // 2 * number // sessions * 2) + b"".join(said)


async def listen(url: str, sessions: int, sound: str) -> None:
    """Open the sessions, say so, send until standard input ends; then print how many turns there were, and errors."""
    pcm = noise() if sound == "noise" else b""
    clips = (recorded("librivox") if available() else await synthesized(Config())) if sound == "speech" else []
    async with AsyncExitStack() as stack:
        clients = []
        for number in range(sessions):
            clients.append(await stack.enter_async_context(RtviClient(url.replace("http", "ws", 1) + "/ws")))
            if sound != "silence":
                clients[-1].say(pcm or speech(clips, number, sessions))
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        kinds = [message.type for client in clients for message in client.messages]
        result = {"turns": kinds.count("user-started-speaking"), "errors": kinds.count("error")}
        result["ended"] = sum(client.closed for client in clients)
    print(json.dumps(result), flush=True)


@contextlib.contextmanager
def clients(url: str, sessions: int, sound: str, result: dict[str, int]) -> Iterator[None]:
    """So many sessions for as long as the context lasts; ``result`` then has what they met.

    Raises:
        RuntimeError: they could not be opened.
    """
    command = [sys.executable, __file__, "--listen", url, "--sessions", str(sessions), "--sounds", sound]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "open\n":
            raise RuntimeError(f"{sessions} sessions could not be opened; see the messages above")
        yield
        result |= json.loads(process.communicate(timeout=READY_DEADLINE_S)[0])
    finally:
        process.kill()
        process.wait()


# --------------------------------------------------------------------------------------------------------------- this process


def cpu_s(root: int) -> dict[str, float]:
    """CPU seconds so far of the app's processes by role. ``ray``: all of Ray that is not one of our actors, the driver too."""
    used: dict[str, float] = defaultdict(float)
    parent = psutil.Process(root)
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[ROLES.get(actor_class(process), "ray")] += times.user + times.system
    return used


def actor_class(process: psutil.Process) -> str:
    """The class of the Ray actor that ``process`` is, or ""."""
    named = re.match(r"ray::(\w+)", " ".join(process.cmdline()))
    return named[1] if named else ""


def measured(root: int, seconds: float, progress: Progress, title: str) -> dict[str, float]:
    """Per cent of a core of each role over ``seconds``."""
    task = progress.add_task(title, total=seconds + SETTLE_S)
    _wait(SETTLE_S, progress, task)
    before, began = cpu_s(root), time.monotonic()
    _wait(seconds, progress, task)
    after, took = cpu_s(root), time.monotonic() - began
    return {role: 100 * (after[role] - before[role]) / took for role in after}


def _wait(seconds: float, progress: Progress, task: Any) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(0.5, left))
        progress.advance(task, min(0.5, left))


def per_session(busy: dict[str, float], idle: dict[str, float], sessions: int) -> dict[str, float]:
    """What each session adds, by role, and ``all`` of ours together."""
    cost = {role: round((busy.get(role, 0.0) - idle.get(role, 0.0)) / sessions, 3) for role in (*COLUMNS, "ray")}
    return {"all": round(sum(cost[role] for role in COLUMNS), 3), **cost}


def run(options: argparse.Namespace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The idle app's figures, and a row for each sound and number of sessions."""
    rows: list[dict[str, Any]] = []
    with server(PROFILE) as (url, pid), Progress(transient=True, console=Console(stderr=True)) as progress:
        idle = measured(pid, options.seconds, progress, "idle")
        for sound in options.sounds:
            for sessions in options.sessions:
                met: dict[str, int] = {}
                with clients(url, sessions, sound, met):
                    busy = measured(pid, options.seconds, progress, f"{sessions} sessions, {sound}")
                rows.append({"sound": sound, "sessions": sessions, **per_session(busy, idle, sessions), **met})
                time.sleep(SETTLE_S)  # places are given back
    return {role: round(value, 2) for role, value in idle.items()}, rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 16], help="numbers of sessions, 16 at most")
    parser.add_argument("--sounds", nargs="+", choices=SOUNDS, default=["silence", "noise"], help="what the microphones hear")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (20)")
    parser.add_argument("--listen", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        asyncio.run(listen(options.listen, options.sessions[0], options.sounds[0]))
        return
    idle, rows = run(options)
    console = Console()
    table = Table(*rows[0], title=f"per cent of a core per session, beyond the idle app; {machine()}")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    console.print("the idle app: " + ", ".join(f"{role} {value:g} %" for role, value in sorted(idle.items())))
    path = append("session_cost", {"seconds": options.seconds, "recorded": available(), "idle": idle, "rows": rows})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")


if __name__ == "__main__":
    main()
