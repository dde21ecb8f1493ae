"""Recorded utterances of several sessions at once, through the speech model's own door: what a batch gains, and what finals wait.

In this process, without sockets: N sessions ask for a final of an utterance each at the same moment, wait for all, and ask again.
All numbers of sessions take turns within a cycle, and the gain is the median of the cycles' ratios, so that a machine that is now
faster and now slower does not decide. A text counts as *same* when it is what the utterance gave alone.

Then finals at fixed times, alone and beside sessions that have an interim computed all the time.

    python benchmarks/stt_batch.py
    python benchmarks/stt_batch.py --device cuda --model whisper-base --max-batch 16 --sessions 1 4 16
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import DEVICES, Choice, configured, loaded, table
from record import append, machine, percentile
from rich.console import Console
from rich.progress import Progress

from rtvi_actors.config import Config
from rtvi_actors.stt.engine import SttRequest
from rtvi_actors.testing.recordings import RATE_HZ, Recording, available, recorded, synthesized

FINAL_EVERY_S = 0.7
"""Of the finals beside interims: time enough for each, so that what they wait is not the queue of their own."""
INTERIM_S = 3.0
"""Audio that an interim transcribes."""


@dataclass(slots=True)
class Finals:
    """What ``sessions`` at once met."""

    sessions: int
    wait_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    """Of each cycle."""
    same: int = 0

    def figures(self, alone: Finals) -> dict[str, Any]:
        """What is printed and recorded."""
        ratios = [mine / one for mine, one in zip(self.per_s, alone.per_s, strict=True)]
        return {
            "sessions": self.sessions,
            "utterances": len(self.wait_ms),
            "per_s": round(statistics.median(self.per_s), 2),
            "times_alone": round(statistics.median(ratios), 2),
            "wait_p50_ms": round(percentile(self.wait_ms, 0.5)),
            "wait_p95_ms": round(percentile(self.wait_ms, 0.95)),
            "same_text": self.same,
        }


async def final(backend: Any, session: str, pcm: bytes) -> tuple[str, float]:
    """The text of an utterance, and how long it was waited for, ms."""
    began_ns = time.monotonic_ns()
    pieces = [piece async for piece in backend.stream(session, SttRequest(pcm=pcm, final=True))]
    return pieces[-1].text, (time.monotonic_ns() - began_ns) / 1e6


async def cycle(backend: Any, clips: list[Recording], alone: dict[str, str], found: Finals, rounds: int) -> None:
    """``rounds`` times an utterance of each session at once; the clips take turns."""
    began = time.monotonic()
    for turn in range(rounds):
        asked = [clips[(turn * found.sessions + number) % len(clips)] for number in range(found.sessions)]
        answers = await asyncio.gather(*(final(backend, f"s{number}", clip.pcm) for number, clip in enumerate(asked)))
        found.wait_ms += [wait_ms for _, wait_ms in answers]
        found.same += sum(text == alone[clip.name] for clip, (text, _) in zip(asked, answers, strict=True))
    found.per_s.append(rounds * found.sessions / (time.monotonic() - began))


async def batches(backend: Any, clips: list[Recording], options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """A row for each number of sessions."""
    alone = {clip.name: (await final(backend, "s0", clip.pcm))[0] for clip in clips}
    rows = {sessions: Finals(sessions) for sessions in dict.fromkeys([1, *options.sessions])}
    most = max(rows)
    task = progress.add_task("batches", total=options.cycles * len(rows))
    for _ in range(options.cycles):
        for sessions, found in rows.items():
            await cycle(backend, clips, alone, found, -(-2 * most // sessions))
            progress.advance(task)
    return [found.figures(rows[1]) for found in rows.values()]


async def beside_interims(backend: Any, clips: list[Recording], talking: int, count: int) -> dict[str, Any]:
    """``count`` finals at fixed times while ``talking`` other sessions have interims computed without a pause."""
    interims = 0

    async def talk(session: str, pcm: bytes) -> None:
        nonlocal interims
        while True:
            async for _ in backend.stream(session, SttRequest(pcm=pcm, final=False)):
                interims += 1

    tasks = [
        asyncio.create_task(
            talk(f"t{number}", clips[number % len(clips)].pcm[: int(INTERIM_S * RATE_HZ) * 2]), name=f"talk {number}"
        )
        for number in range(talking)
    ]
    try:
        began, asked = time.monotonic(), []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + (number + 1) * FINAL_EVERY_S - time.monotonic()))
            asked.append(asyncio.create_task(final(backend, "s0", clips[number % len(clips)].pcm), name=f"final {number}"))
        waits_ms = [wait_ms for _, wait_ms in await asyncio.gather(*asked)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "talking": talking,
        "finals": count,
        "wait_p50_ms": round(percentile(waits_ms, 0.5)),
        "wait_p95_ms": round(percentile(waits_ms, 0.95)),
        "interims": interims,
    }


async def measure(config: Config, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both tables' rows."""
    clips = recorded("librivox") if available() else await synthesized(Config())
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        async with loaded("stt", config) as backend:
            rows = await batches(backend, clips, options, progress)
            task = progress.add_task("beside interims", total=len(options.talking))
            beside = []
            for talking in options.talking:
                beside.append(await beside_interims(backend, clips, talking, options.finals))
                progress.advance(task)
    return rows, beside


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], help="sessions at once (1 2 4 8)")
    parser.add_argument("--cycles", type=int, default=5, help="how often all of them take their turn (5)")
    parser.add_argument("--talking", type=int, nargs="+", default=[0, 4], help="sessions with interims beside the finals (0 4)")
    parser.add_argument("--finals", type=int, default=25, help="finals beside them (25)")
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--model", default="", help="another model of `rtvi-actors models list`, or a folder")
    parser.add_argument("--threads", type=int, default=0, help="threads of the model (as configured)")
    parser.add_argument("--max-batch", type=int, default=0, help="utterances in one batch (as configured)")
    options = parser.parse_args()
    choice = Choice(options.device, model=options.model, threads=options.threads, max_batch=options.max_batch)
    config = configured("stt", choice)
    rows, beside = asyncio.run(measure(config, options))
    what = f"{config.stt.model} on {options.device}, {config.stt.threads} threads, batches up to {config.stt.max_batch}"
    console = Console()
    console.print(table(f"finals at once: {what}, {machine()}", rows))
    console.print(table("finals beside interims", beside))
    settings = {
        "model": config.stt.model,
        "device": options.device,
        "threads": config.stt.threads,
        "max_batch": config.stt.max_batch,
    }
    speech = "recorded" if available() else "synthesized"
    path = append("stt_batch", {**settings, "speech": speech, "rows": rows, "beside_interims": beside})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


if __name__ == "__main__":
    main()
