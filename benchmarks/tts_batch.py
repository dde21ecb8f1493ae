"""Clauses of several sessions at once, through the voice's own door: when each is heard, and how many are spoken without a gap.

In this process, without sockets: N sessions ask for a clause each at the same moment, and read the pieces as they come, again and
again. A session *stays ahead* when no piece of its clause came later than a player, which began with the first one, had played the
pieces before. *In turns*: rounds in which everybody's first piece came before anybody's second. The newcomer asks for a clause
while the N speak theirs.

    python benchmarks/tts_batch.py
    python benchmarks/tts_batch.py --backend hibari --sessions 1 8 16 32
    python benchmarks/tts_batch.py --device cuda
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import DEVICES, Choice, configured, loaded, table
from record import append, machine, percentile
from rich.console import Console
from rich.progress import Progress

from rtvi_actors.config import Config
from rtvi_actors.testing.client import BOT_RATE_HZ
from rtvi_actors.tts.engine import TtsRequest

MODELS = {"coqui": "vits-joe", "hibari": "hibari-heart"}
CLAUSES = (
    "Breakfast is served from seven to ten in the restaurant on the ground floor.",
    "The pool opens at eight in the morning, and closes at ten in the evening.",
    "I would be happy to book a table for two people for you.",
    "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a while.",
    "There is a train to the airport every half an hour, and it takes about twenty minutes.",
)
NEWCOMER = "One moment, please, I will have a look."
NEWCOMER_AFTER_S = 0.4
"""The newcomer comes while all others have something to play already, where the machine can do that."""


@dataclass(slots=True)
class Spoken:
    """A clause as its session got it."""

    asked_ns: int
    pieces: list[tuple[int, float]] = field(default_factory=list)
    """(ns of its arrival, ms of audio) of each piece."""

    @property
    def first_ms(self) -> float:
        """From asking to the first piece."""
        return (self.pieces[0][0] - self.asked_ns) / 1e6

    @property
    def audio_ms(self) -> float:
        """Length of the clause."""
        return sum(audio_ms for _, audio_ms in self.pieces)

    def late_ms(self) -> float:
        """By how much the latest piece came too late for a player that began with the first one; 0 if none did."""
        due_ns, worst_ns = float(self.pieces[0][0]), 0.0
        for at_ns, audio_ms in self.pieces:
            worst_ns = max(worst_ns, at_ns - due_ns)
            due_ns = max(due_ns, at_ns) + audio_ms * 1e6
        return worst_ns / 1e6


@dataclass(slots=True)
class Round:
    """All clauses of one round, and the newcomer's."""

    spoken: list[Spoken]
    newcomer: Spoken | None = None

    @property
    def in_turns(self) -> bool:
        """Whether everybody's first piece came before anybody's second."""
        seconds = [spoken.pieces[1][0] for spoken in self.spoken if len(spoken.pieces) > 1]
        return max(spoken.pieces[0][0] for spoken in self.spoken) <= min(seconds, default=time.monotonic_ns())

    @property
    def seconds(self) -> float:
        """From asking to the last piece."""
        return (max(spoken.pieces[-1][0] for spoken in self.spoken) - min(spoken.asked_ns for spoken in self.spoken)) / 1e9


async def speak(backend: Any, session: str, text: str) -> Spoken:
    """One clause to its end."""
    spoken = Spoken(time.monotonic_ns())
    async for piece in backend.stream(session, TtsRequest(text)):
        spoken.pieces.append((time.monotonic_ns(), len(piece.pcm) / 2 / BOT_RATE_HZ * 1_000))
    return spoken


async def one_round(backend: Any, sessions: int, turn: int, newcomer: bool) -> Round:
    """A clause for each session at once; the clauses take turns."""
    texts = [CLAUSES[(turn + number) % len(CLAUSES)] for number in range(sessions)]
    tasks = [asyncio.create_task(speak(backend, f"s{number}", text), name=f"s{number}") for number, text in enumerate(texts)]
    if newcomer:
        await asyncio.sleep(NEWCOMER_AFTER_S)
        tasks.append(asyncio.create_task(speak(backend, "newcomer", NEWCOMER), name="newcomer"))
    spoken = list(await asyncio.gather(*tasks))
    return Round(spoken[:sessions], spoken[-1] if newcomer else None)


def figures(sessions: int, rounds: list[Round], joined: list[Round]) -> dict[str, Any]:
    """What is printed and recorded of the rounds without and with a newcomer."""
    spoken = [spoken for found in rounds for spoken in found.spoken]
    first_ms = [clause.first_ms for clause in spoken]
    newcomers_ms = [found.newcomer.first_ms for found in joined if found.newcomer is not None]
    late_ms = [clause.late_ms() for clause in spoken]
    return {
        "sessions": sessions,
        "clauses": len(spoken),
        "first_p50_ms": round(percentile(first_ms, 0.5)),
        "first_p95_ms": round(percentile(first_ms, 0.95)),
        "in_turns": f"{sum(found.in_turns for found in rounds)}/{len(rounds)}",
        "audio_s_per_s": round(sum(clause.audio_ms for clause in spoken) / 1e3 / sum(found.seconds for found in rounds), 2),
        "stay_ahead": min(sum(clause.late_ms() == 0 for clause in found.spoken) for found in rounds),
        "late_p95_ms": round(percentile(late_ms, 0.95)),
        "newcomer_p50_ms": round(percentile(newcomers_ms, 0.5)),
        "newcomer_p95_ms": round(percentile(newcomers_ms, 0.95)),
    }


async def measure(config: Config, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of sessions."""
    rows = []
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        async with loaded("tts", config) as backend:
            for sessions in options.sessions:
                task = progress.add_task(f"{sessions} sessions", total=2 * options.rounds)
                rounds: list[Round] = []
                for turn in range(2 * options.rounds):
                    rounds.append(await one_round(backend, sessions, turn // 2, newcomer=turn % 2 == 1))
                    progress.advance(task)
                rows.append(figures(sessions, rounds[::2], rounds[1::2]))
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], help="sessions at once (1 2 4 8)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds for each number, and as many with a newcomer (5)")
    parser.add_argument("--backend", choices=MODELS, nargs="+", default=list(MODELS), help="voices (both)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="coqui only; hibari runs on the CPU")
    parser.add_argument("--threads", type=int, default=0, help="threads of the model (as configured)")
    options = parser.parse_args()
    console = Console()
    voices = []
    for backend in options.backend:
        device = options.device if backend == "coqui" else "cpu"
        config = configured("tts", Choice(device, backend, MODELS[backend], options.threads))
        rows = asyncio.run(measure(config, options))
        what = f"{backend} on {device}, {config.tts.threads} threads"
        console.print(table(f"clauses at once: {what}, {machine()}", rows))
        voices.append({"backend": backend, "device": device, "threads": config.tts.threads, "rows": rows})
    path = append("tts_batch", {"voices": voices})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


if __name__ == "__main__":
    main()
