"""Voice to voice latency at the client, with recorded human speech through the WebSocket in real time.

The figure runs from the moment the last audible sample of a recording was sent to the first received audio that is audible (RMS
over 100). This process is the client alone; the server is another (its own, unless --url is given). Beside latency it counts what
latency could be bought with: turns cut in two, word errors, gaps in the bot's audio, and the cut-offs that endpointing.py counted
at the same commit on the same machine.

    python benchmarks/voice_latency.py                    60 turns of five LibriVox clips, 20 of the "cards"
    python benchmarks/voice_latency.py --turns 10 --cards 0
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

import jiwer
import psutil
from cutoffs import in_words, last_cut_offs
from record import append, machine, percentile, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient, Turn
from rtvi_actors.testing.recordings import Recording, available, recorded, synthesized

PAUSE_S = 1.0
"""Silence between the end of an answer and the next utterance."""


@dataclass(slots=True)
class Outcome:
    """All turns over one set of recordings."""

    name: str
    turns: list[tuple[Recording, Turn]] = field(default_factory=list)
    unanswered: int = 0
    client_late_ms: float = 0.0

    def figures(self) -> dict[str, Any]:
        """What is printed and recorded. Times in ms, None where there is nothing to measure.

        A turn whose answer made no sound counts as unanswered.
        """
        silent = sum(1 for _, turn in self.turns if turn.voice_to_voice_ms is None)
        voice = [turn.voice_to_voice_ms for _, turn in self.turns if turn.voice_to_voice_ms is not None]
        own = [turn.own_share_ms for _, turn in self.turns if turn.own_share_ms is not None]
        measured = [turn.segments_ms for _, turn in self.turns if turn.segments_ms]
        segments = {name: [values.get(name, 0.0) for values in measured] for name in (measured[0] if measured else ())}
        gaps = [gap for _, turn in self.turns for gap in turn.gaps_ms]
        return {
            "set": self.name,
            "turns": len(self.turns) + self.unanswered,
            "unanswered": self.unanswered + silent,
            "cut_in_two": sum(1 for _, turn in self.turns if len(turn.transcripts) > 1),
            "voice_to_voice_ms": _spread(voice),
            "own_share_ms": _spread(own),
            "segments_ms": {name: _spread(values) for name, values in segments.items()},
            "gaps_over_40_ms": len(gaps),
            "longest_gap_ms": round(max(gaps, default=0.0), 1),
            "client_late_ms": round(self.client_late_ms, 1),
            "word_error_rate": _word_error_rate(self.turns),
        }


def _spread(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None, "max": None}
    return {
        "p50": round(percentile(values, 0.5), 1),
        "p95": round(percentile(values, 0.95), 1),
        "max": round(max(values), 1),
    }


def _word_error_rate(turns: list[tuple[Recording, Turn]]) -> float | None:
    """Word errors over words, after Whisper's own English normalizer on both sides."""
    if not turns:
        return None
    from rtvi_actors.models.torch_setup import ensure_torchaudio

    ensure_torchaudio()
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    said = [normal(recording.text) for recording, _ in turns]
    heard = [normal(" ".join(turn.transcripts)) for _, turn in turns]
    return round(float(jiwer.wer(said, heard)), 4)


async def converse(url: str, name: str, recordings: list[Recording], count: int) -> Outcome:
    """``count`` turns in one session, the recordings in turn."""
    outcome = Outcome(name)
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=count)
        async with RtviClient(url.replace("http", "ws", 1) + "/ws") as client:
            for number in range(count):
                recording = recordings[number % len(recordings)]
                await asyncio.sleep(PAUSE_S)
                try:
                    outcome.turns.append((recording, await client.turn(client.say(recording.pcm), deadline_s=40)))
                except RtviActorsError as error:
                    outcome.unanswered += 1
                    progress.console.print(f"turn {number} ({recording.name}): {error}", style="red", markup=False)
                    if client.closed:
                        break
                progress.advance(task)
            outcome.client_late_ms = client.late_ms
    return outcome


def stage_memory_mib(pid: int) -> dict[str, float]:
    """USS of the processes below ``pid``, by the actor that they run. Several of one class: the largest."""
    found: dict[str, float] = {}
    for child in psutil.Process(pid).children(recursive=True):
        try:
            title = child.cmdline()[0] if child.cmdline() else ""
            if title.startswith("ray::") and "Actor" in title:
                role = title.removeprefix("ray::").split(".")[0].split(":")[0]
                found[role] = max(found.get(role, 0.0), round(child.memory_full_info().uss / 2**20, 1))
        except psutil.Error:
            continue
    return found


def table(outcomes: list[dict[str, Any]], cut_offs: dict[str, Any] | None) -> Table:
    """All sets beside each other, and what is known of cut-offs."""
    result = Table("figure", *(figures["set"] for figures in outcomes), title=f"voice to voice, one session, {machine()}")

    def row(name: str, key: str, part: str | None = None) -> None:
        values = [figures[key] if part is None else figures[key][part] for figures in outcomes]
        result.add_row(name, *("-" if value is None else f"{value:g}" for value in values))

    for name, key in (("turns", "turns"), ("unanswered", "unanswered"), ("cut in two", "cut_in_two")):
        row(name, key)
    for part in ("p50", "p95", "max"):
        row(f"voice to voice {part}, ms", "voice_to_voice_ms", part)
    for part in ("p50", "p95"):
        row(f"own share {part}, ms", "own_share_ms", part)
    for segment in dict.fromkeys(name for figures in outcomes for name in figures["segments_ms"]):
        cells = [figures["segments_ms"].get(segment, {}) for figures in outcomes]
        result.add_row(f"{segment} p50 / p95, ms", *(f"{cell['p50']:.0f} / {cell['p95']:.0f}" if cell else "-" for cell in cells))
    row("gaps over 40 ms", "gaps_over_40_ms")
    row("longest gap, ms", "longest_gap_ms")
    row("the client's own delay, max, ms", "client_late_ms")
    row("word error rate", "word_error_rate")
    result.add_row("cut off in pauses (endpointing.py)", in_words(cut_offs))
    return result


async def measure(url: str, options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Both sets; the kind of speech that was used, and the figures of each."""
    if available():
        sets, speech = [("librivox", recorded("librivox"), options.turns), ("cards", recorded("cards"), options.cards)], "recorded"
    else:
        print("no recorded speech (apt-get install pocketsphinx-testdata): synthesized speech instead", file=sys.stderr)
        sets, speech = [("synthesized", await synthesized(Config()), options.turns)], "synthesized"
    return speech, [(await converse(url, name, clips, count)).figures() for name, clips, count in sets if count]


def main() -> None:
    """Run the benchmark; exit code 1 when a turn was not answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=60, help="turns over the LibriVox clips (60)")
    parser.add_argument("--cards", type=int, default=20, help='turns over the "cards" clips (20)')
    parser.add_argument("--config", default=None, help="configuration of the server that is started")
    parser.add_argument("--url", default=None, help="use this running server instead")
    options = parser.parse_args()
    memory: dict[str, float] = {}
    if options.url:
        speech, outcomes = asyncio.run(measure(options.url, options))
    else:
        with server(*([options.config] if options.config else [])) as (url, pid):
            speech, outcomes = asyncio.run(measure(url, options))
            memory = stage_memory_mib(pid)
    console = Console()
    cut_offs = last_cut_offs()
    console.print(table(outcomes, cut_offs))
    if memory:
        console.print("USS, MiB: " + ", ".join(f"{role} {mib:g}" for role, mib in sorted(memory.items())))
    path = append("voice_latency", {"speech": speech, "sets": outcomes, "cut_offs": cut_offs, "uss_mib": memory})
    console.print(f"appended to {path.relative_to(path.parents[2])}", style="dim")
    if any(figures["unanswered"] for figures in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
