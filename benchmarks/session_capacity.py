"""How many sessions a machine holds: the same work for each, more and more of them, until they are no longer answered in time.

Each session speaks a recorded utterance every 15 s and is answered with at most 24 tokens. The load is open-loop: an utterance
begins at its time whether or not the server keeps up, so a server that stalls is not spared. An utterance is lost when no sound of
an answer came before the next one begins. The *knee* is the largest number of sessions without a loss and within the limit.

    python benchmarks/session_capacity.py                        shared groups; 1, 2, 4, 6, 8, 10 and 12 sessions, 60 s each
    python benchmarks/session_capacity.py --own --sessions 1 2 4
    python benchmarks/session_capacity.py --limit-ms 1100 --config my.toml
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
import tomllib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import ROOT, append, machine, percentile, server
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient, Utterance, gaps_ms
from rtvi_actors.testing.recordings import AUDIBLE_RMS, Recording, available, recorded, rms, synthesized

PERIOD_S = 15.0
MAX_TOKENS = 24
PROFILES = {True: None, False: "clusters/dense.toml"}
"""Own groups, shared groups."""


@dataclass(slots=True)
class Load:
    """What one number of sessions met."""

    sessions: int
    asked: int = 0
    refused: int = 0
    voice_to_voice_ms: list[float] = field(default_factory=list)
    gaps: int = 0
    problems: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What is printed and recorded."""
        return {
            "sessions": self.sessions,
            "asked": self.asked,
            "lost": self.asked - len(self.voice_to_voice_ms),
            "refused": self.refused,
            "p50_ms": round(percentile(self.voice_to_voice_ms, 0.5)) if self.voice_to_voice_ms else None,
            "p95_ms": round(percentile(self.voice_to_voice_ms, 0.95)) if self.voice_to_voice_ms else None,
            "gaps_over_40_ms": self.gaps,
        }


def within(figures: dict[str, Any], limit_ms: float) -> bool:
    """Whether all sessions were answered in time."""
    return not figures["lost"] and not figures["refused"] and figures["p95_ms"] is not None and figures["p95_ms"] <= limit_ms


async def load(url: str, clips: list[Recording], sessions: int, seconds: float, progress: Progress, task: TaskID) -> Load:
    """``sessions`` clients at once, their utterances evenly spread over the period."""
    found = Load(sessions)
    async with AsyncExitStack() as stack:
        clients: list[RtviClient] = []
        for _ in range(sessions):
            try:
                clients.append(await stack.enter_async_context(RtviClient(url.replace("http", "ws", 1) + "/ws")))
            except RtviActorsError as error:
                found.refused += 1
                found.problems.append(str(error))
        began = time.monotonic() + 1.0
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                at = began + number * PERIOD_S / max(1, len(clients))
                mine = clips[number % len(clips) :] + clips[: number % len(clips)]
                group.create_task(_talk(client, mine, at, began + seconds, found), name=f"session {number}")
            while time.monotonic() < began + seconds:
                await asyncio.sleep(0.5)
                progress.advance(task, 0.5)
    return found


async def _talk(client: RtviClient, clips: list[Recording], at: float, until: float, found: Load) -> None:
    """An utterance each period; what was asked in the last one has a period to be answered."""
    utterances: list[Utterance] = []
    while at < until and not client.closed:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        try:
            utterances.append(client.say(clips[len(utterances) % len(clips)].pcm))
        except RtviActorsError as error:
            found.problems.append(str(error))
        found.asked += 1
        at += PERIOD_S
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    ends_ns = [utterance.started_ns for utterance in utterances[1:]] + [time.monotonic_ns()]
    for utterance, end_ns in zip(utterances, ends_ns, strict=True):
        answer = [chunk for chunk in client.audio[utterance.first_audio :] if utterance.ended_ns <= chunk[1] < end_ns]
        first_ns = next((at_ns for pcm, at_ns in answer if rms(pcm) > AUDIBLE_RMS), None)
        if first_ns is not None and utterance.ended_ns:
            found.voice_to_voice_ms.append((first_ns - utterance.ended_ns) / 1e6)
        found.gaps += len(gaps_ms(answer))


async def ramp(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """More and more sessions, up to the first number that is too many."""
    clips = recorded("librivox") if available() else await synthesized(Config())
    rows: list[dict[str, Any]] = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        for sessions in options.sessions:
            task = progress.add_task(f"{sessions} sessions", total=options.seconds)
            found = await load(url, clips, sessions, options.seconds, progress, task)
            rows.append(found.figures())
            for problem in dict.fromkeys(found.problems):
                progress.console.print(f"{sessions} sessions: {problem}", style="red", markup=False)
            if not within(rows[-1], options.limit_ms):
                break
            await asyncio.sleep(3.0)  # places are given back
    return rows


def configuration(options: argparse.Namespace, folder: Path) -> Path:
    """The profile with short answers and room for all sessions, as a file."""
    profile = options.config or PROFILES[options.own]
    data = tomllib.loads((ROOT / profile).read_text(encoding="utf-8")) if profile else {}
    most = max(options.sessions)
    scheduler = {**data.get("scheduler", {}), "max_sessions": most}
    if options.own:
        scheduler["warm_groups"] = most
    elif scheduler.get("sessions_per_group", 1) * scheduler.get("warm_groups", 1) < most:
        scheduler["warm_groups"] = -(-most // scheduler.get("sessions_per_group", 1))
    data = {**data, "llm": {**data.get("llm", {}), "max_tokens": MAX_TOKENS}, "scheduler": scheduler}
    path = folder / "capacity.toml"
    lines = [line for section, keys in data.items() for line in (f"[{section}]", *(f"{key} = {_toml(keys[key])}" for key in keys))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else f'"{value}"'


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 6, 8, 10, 12], help="numbers of sessions")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load (60)")
    parser.add_argument("--limit-ms", type=float, default=2_000.0, help="voice to voice p95 that is still in time (2000)")
    parser.add_argument("--own", action="store_true", help="an own stage group for each session (default: shared groups)")
    parser.add_argument("--config", default=None, help="a profile to start from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(str(configuration(options, Path(folder)))) as (url, _):
        rows = asyncio.run(ramp(url, options))
    knee = max((row["sessions"] for row in rows if within(row, options.limit_ms)), default=0)
    groups = "own" if options.own else "shared"
    table = Table(*rows[0], title=f"{groups} groups, p95 up to {options.limit_ms:g} ms, {machine()}")
    for row in rows:
        table.add_row(*("-" if value is None else f"{value:g}" for value in row.values()))
    console = Console()
    console.print(table)
    console.print(f"knee: {knee} sessions")
    path = append("session_capacity", {"groups": groups, "limit_ms": options.limit_ms, "knee": knee, "rows": rows})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")


if __name__ == "__main__":
    main()
