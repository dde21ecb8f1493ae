"""Ours beside Pipecat on the same models, machine, recordings and load: voice to voice latency, lost turns and gaps.

One after the other, each alone on the machine: ours (shared groups), Pipecat *off the shelf* (its defaults; Silero and Smart Turn,
its Whisper and Piper services, its OpenAI service on ``transformers serve``) and Pipecat *tuned* (200 ms of silence end a turn; one
greedy int8 Whisper and one Piper for all; our own language model behind an OpenAI-compatible server). bot.py says what each is.
All have the same weights, instructions, greedy answers of at most 24 tokens, and one spoken turn before the first load.

    python benchmarks/peers/set_up.py            once: the peers' own environment
    python benchmarks/peers/compare.py           1, 2, 4 and 8 sessions, 60 s each: about 20 minutes
    python benchmarks/peers/compare.py --only tuned --sessions 1 2
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import set_up
from load import MAX_TOKENS, PERIOD_S, SHARED, clips, configuration, offer
from ratios import capacities, knee, speeds
from record import ROOT, append, machine, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from servers import off_the_shelf, tuned

from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient
from rtvi_actors.testing.recordings import Recording

NAMES = {"ours": "ours", "shelf": "Pipecat off the shelf", "tuned": "Pipecat tuned"}
READY_DEADLINE_S = 60.0
"""Until a session is ready: off the shelf, Pipecat loads its models for each."""
SETTLE_S = 3.0
"""Between two loads, for places to be given back."""


@contextlib.contextmanager
def ours(most: int) -> Iterator[str]:
    """Our server with shared groups and room for ``most`` sessions: the URL."""
    with tempfile.TemporaryDirectory() as folder, server(str(configuration(Path(folder), SHARED, most))) as (url, _):
        yield url


def running(name: str, most: int) -> contextlib.AbstractContextManager[str]:
    """The server ``name``: its URL."""
    return {"ours": lambda: ours(most), "shelf": off_the_shelf, "tuned": tuned}[name]()


async def measure(url: str, said: list[Recording], options: argparse.Namespace, outcome: dict[str, Any], console: Console) -> None:
    """All loads, one after the other, after one spoken turn that warms the models up. Each adds its row to ``outcome``."""
    label = NAMES[outcome["name"]]
    async with RtviClient(url.replace("http", "ws", 1) + "/ws", ready_deadline_s=READY_DEADLINE_S) as client:
        await client.turn(client.say(said[0].pcm), deadline_s=READY_DEADLINE_S)
    with Progress(transient=True, console=console) as progress:
        for sessions in options.sessions:
            await asyncio.sleep(SETTLE_S)
            task = progress.add_task(f"{label}, {sessions} sessions", total=options.seconds)
            found = await offer(url, said, sessions, options.seconds, progress, task, READY_DEADLINE_S)
            outcome["rows"].append({**found.figures(), "voice_to_voice_ms": sorted(map(round, found.voice_to_voice_ms))})
            for problem in dict.fromkeys(found.problems):
                console.print(f"{label}, {sessions} sessions: {problem}", style="red", markup=False)


def run(name: str, said: list[Recording], options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start ``name`` and measure it. A server that fails is told as ``failed``, beside what was measured before."""
    outcome: dict[str, Any] = {"name": name, "rows": [], "failed": ""}
    try:
        with running(name, max(options.sessions)) as url:
            asyncio.run(measure(url, said, options, outcome, console))
    except (RuntimeError, RtviActorsError) as error:
        outcome["failed"] = str(error)
        console.print(f"{NAMES[name]}: {error}", style="red", markup=False)
    return outcome


def compared(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """The ratios against each peer that was measured; {} without ours."""
    rows = {outcome["name"]: outcome["rows"] for outcome in outcomes}
    mine = rows.pop("ours", [])
    if not mine:
        return {}
    return {
        name: {
            "speed": [asdict(speed) for speed in speeds(mine, theirs)],
            "capacity": [{**asdict(found), "ratio": found.ratio} for found in capacities(mine, theirs)],
        }
        for name, theirs in rows.items()
    }


def figures_table(outcomes: list[dict[str, Any]]) -> Table:
    """What each met."""
    table = Table("server", "sessions", "turns", "lost", "p50, ms", "p95, ms", "gaps", title=f"voice to voice, {machine()}")
    for outcome in outcomes:
        for row in outcome["rows"]:
            cells = [row[key] for key in ("sessions", "asked", "lost", "p50_ms", "p95_ms", "gaps_over_40_ms")]
            table.add_row(NAMES[outcome["name"]], *("-" if cell is None else str(cell) for cell in cells))
        if outcome["failed"]:
            table.add_row(NAMES[outcome["name"]], "failed", style="red")
    return table


def tell_ratios(console: Console, ratios: dict[str, Any], outcomes: list[dict[str, Any]], limit_ms: float) -> None:
    """In sentences."""
    for outcome in outcomes:
        console.print(f"{NAMES[outcome['name']]}: {knee(outcome['rows'], limit_ms)} sessions within a p95 of {limit_ms:g} ms")
    for name, found in ratios.items():
        for speed in found["speed"]:
            console.print(
                f"{speed['sessions']} sessions: {speed['p50']} (p50) and {speed['p95']} (p95) times as fast as {NAMES[name]}"
            )
        for line in found["capacity"]:
            least = "at least " if line["at_least"] else ""
            console.print(
                f"at a p95 of {line['p95_ms']:g} ms: {least}{line['ours']} sessions, {NAMES[name]} {line['theirs']}: "
                f"{least}{line['ratio']:g} times"
            )


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of sessions (1 2 4 8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load (60)")
    parser.add_argument("--only", choices=list(NAMES), nargs="+", default=list(NAMES), help="which of them (all)")
    parser.add_argument("--limit-ms", type=float, default=2_000.0, help="p95 that is still in time, for the knee (2000)")
    options = parser.parse_args()
    if set(options.only) != {"ours"} and not set_up.ready():
        parser.error("the peers' environment is missing or old: run python benchmarks/peers/set_up.py")
    console, progress_console = Console(), Console(stderr=True)
    said = asyncio.run(clips())
    outcomes = [run(name, said, options, progress_console) for name in options.only]
    ratios = compared(outcomes)
    console.print(figures_table(outcomes))
    tell_ratios(console, ratios, outcomes, options.limit_ms)
    load = {"seconds": options.seconds, "period_s": PERIOD_S, "max_tokens": MAX_TOKENS}
    path = append("peers", {"load": load, "limit_ms": options.limit_ms, "servers": outcomes, "ratios": ratios})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")


if __name__ == "__main__":
    main()
