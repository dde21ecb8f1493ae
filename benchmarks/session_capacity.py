"""How many sessions a machine holds: the same work for each, more and more of them, until they are no longer answered in time.

Each session speaks a recorded utterance every 15 s and is answered with at most 24 tokens. The load is open-loop: an utterance
begins at its time whether or not the server keeps up, so a server that stalls is not spared. An utterance is lost when no sound of
an answer came before the next one begins. The *knee* is the largest number of sessions without a loss and within the limit. With
several runs, each on a server of its own, times are their medians, losses and gaps their sums.

    python benchmarks/session_capacity.py                        shared groups, both voices; 1 to 12 sessions, 60 s each: 15 minutes
    python benchmarks/session_capacity.py --runs 3 --sessions 8 12
    python benchmarks/session_capacity.py --own --sessions 1 2 4
    python benchmarks/session_capacity.py --limit-ms 1100 --config my.toml
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median_low
from typing import Any

from cutoffs import in_words, last_cut_offs
from load import FAST_VOICE, SHARED, clips, configuration, offer, within
from record import ROOT, append, machine, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config


async def ramp(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """More and more sessions, up to the first number that is too many; with several runs all of them, since their medians count."""
    said = await clips()
    rows: list[dict[str, Any]] = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        for sessions in options.sessions:
            task = progress.add_task(f"{sessions} sessions", total=options.seconds)
            found = await offer(url, said, sessions, options.seconds, progress, task)
            rows.append(found.figures())
            for problem in dict.fromkeys(found.problems):
                progress.console.print(f"{sessions} sessions: {problem}", style="red", markup=False)
            if options.runs == 1 and not within(rows[-1], options.limit_ms):
                break
            await asyncio.sleep(3.0)  # places are given back
    return rows


def together(runs: list[list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One row per number of sessions: times: medians, counts: sums, the client's delay: the worst."""
    for rows in zip(*runs, strict=True):
        times = {
            key: median_low([row[key] for row in rows]) if all(row[key] for row in rows) else None for key in ("p50_ms", "p95_ms")
        }
        counts = {key: sum(row[key] for row in rows) for key in ("asked", "lost", "refused", "gaps_over_40_ms")}
        yield {**rows[0], **counts, **times, "client_late_ms": max(row["client_late_ms"] for row in rows)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 6, 8, 10, 12], help="numbers of sessions")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each load (60)")
    parser.add_argument("--runs", type=int, default=1, help="how often all of it is done (1)")
    parser.add_argument("--limit-ms", type=float, default=2_000.0, help="voice to voice p95 that is still in time (2000)")
    parser.add_argument("--own", action="store_true", help="an own stage group for each session (default: shared groups)")
    parser.add_argument("--config", nargs="+", default=None, help="profiles, one after the other (with both voices)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be 1 or more")
    profiles = options.config or ([None] if options.own else [SHARED, FAST_VOICE])
    groups = "own" if options.own else "shared"
    console, rows, knees = Console(), [], {}
    for profile in profiles:
        voice, found = measure(profile, options)
        rows += [{"voice": voice, **row} for row in found]
        knees[voice] = max((row["sessions"] for row in found if within(row, options.limit_ms)), default=0)
    table = Table(*rows[0], title=f"{groups} groups, p95 up to {options.limit_ms:g} ms, {machine()}")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console.print(table)
    console.print("knee: " + ", ".join(f"{knee} sessions with {voice}" for voice, knee in knees.items()))
    cut_offs = last_cut_offs()
    console.print(f"cut off in pauses (endpointing.py): {in_words(cut_offs)}")
    load = {"groups": groups, "runs": options.runs, "limit_ms": options.limit_ms, "cut_offs": cut_offs}
    path = append("session_capacity", {**load, "knees": knees, "rows": rows})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")


def measure(profile: str | None, options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The voice of a profile, and what its server bears."""
    runs: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), profile, max(options.sessions), own=options.own)
        for _ in range(options.runs):
            with server(str(config)) as (url, _):
                runs.append(asyncio.run(ramp(url, options)))
        return Config.load(config).tts.backend, list(together(runs))


if __name__ == "__main__":
    main()
