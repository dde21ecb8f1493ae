"""How often a user is cut off in a pause, and what patience costs: recorded speech with pauses put into it, and whole.

Each case goes through the real speaking and STT stages and the real speech model, in virtual time: minutes of talk take seconds
and what decoding takes. A case is *cut off* if a turn ended before the last audible sample; *repaired* if each turn that ended
too early was taken up again by the next one. The *added wait* runs from the last audible sample to the end of the turn.

    python benchmarks/endpointing.py                          whole, and pauses of 200, 400 and 600 ms at 3 places of each recording
    python benchmarks/endpointing.py --cache /tmp/heard.json  while tuning: what was decoded before is not decoded again
    python benchmarks/endpointing.py --config my.toml --show  says what happened in each case that was cut off
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pauses import Case, cases, find_places
from record import append, machine, percentile
from rich.console import Console
from rich.progress import track
from rich.table import Table
from virtual_talk import Model, Talk

from rtvi_actors.config import Config
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.frames.types import Cancel, Frame, Transcript, TurnEnded, TurnStarted
from rtvi_actors.runtime.process import load_class
from rtvi_actors.speaking.endpointing import has_words
from rtvi_actors.speaking.stage import SpeakingStages
from rtvi_actors.testing.clock import VirtualLoop
from rtvi_actors.testing.recordings import RATE_HZ, Recording, available, recorded, synthesized

PAUSES_MS = (200, 400, 600)
MOST_CUT_OFFS = 0.05
LONGEST_P50_MS = 400.0
"""What is aimed at."""

BREATH_MS = 250
"""A recording's last word ends this long before its last audible sample, at most: a turn that ends there is not cut off."""


@dataclass(slots=True)
class Outcome:
    """What became of one case. Times are ms from its first sample."""

    case: Case
    ends_ms: dict[int, float] = field(default_factory=dict)
    """Turn -> when it ended; turns without a word are left out."""
    reopened: set[int] = field(default_factory=set)
    """Turns that a later one took up again."""
    texts: dict[int, str] = field(default_factory=dict)
    """Turn -> its latest final transcript."""

    @property
    def speech_end_ms(self) -> float:
        """When the last audible sample was heard."""
        return self.case.speech_end / RATE_HZ * 1_000

    @property
    def cut_at(self) -> list[int]:
        """Turns that ended before the user did."""
        return [turn for turn, end_ms in self.ends_ms.items() if end_ms < self.speech_end_ms - BREATH_MS]

    @property
    def repaired(self) -> bool:
        """It was cut off, and each time a later turn took it up."""
        return bool(self.cut_at) and self.reopened.issuperset(self.cut_at)

    @property
    def wait_ms(self) -> float | None:
        """What the end of the last turn waited for; None if no turn ended behind the last word."""
        waits = [end_ms - self.speech_end_ms for turn, end_ms in self.ends_ms.items() if turn not in self.cut_at]
        return max(waits, default=None)


def judge(case: Case, config: Config, model: Model, speaking: SpeakingStages) -> tuple[Outcome, Talk]:
    """Play one case."""

    async def play() -> tuple[Outcome, Talk]:
        talk = Talk(config, model, speaking)
        begin_ms = await talk.play(case.pcm)
        return outcome_of(case, [(at_ms - begin_ms, frame) for at_ms, frame in talk.heard]), talk

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(play())


def outcome_of(case: Case, heard: list[tuple[float, Frame]]) -> Outcome:
    """What the frames to the edge, each with the time since the first sample in ms, say of a case."""
    outcome = Outcome(case)
    reopening: dict[int, int] = {}
    """Turn -> the one that it takes up again once it is confirmed."""
    for at_ms, frame in heard:
        match frame:
            case TurnEnded():
                outcome.ends_ms[frame.turn] = at_ms
            case Transcript(final=True):
                outcome.texts[frame.turn] = frame.text
            case TurnStarted() if frame.reopens:
                reopening[frame.turn] = frame.reopens
            case Cancel():
                outcome.reopened |= {reopened for turn, reopened in reopening.items() if turn <= frame.fence}
    outcome.ends_ms = {turn: at_ms for turn, at_ms in outcome.ends_ms.items() if has_words(outcome.texts.get(turn, ""))}
    return outcome


def figures(outcomes: list[Outcome]) -> dict[str, Any]:
    """One row of the table. Waits are ms, None where nothing was measured."""
    cut = [outcome for outcome in outcomes if outcome.cut_at]
    waits = [outcome.wait_ms for outcome in outcomes if outcome.wait_ms is not None]
    return {
        "cases": len(outcomes),
        "cut_off": len(cut),
        "repaired": sum(1 for outcome in cut if outcome.repaired),
        "not_ended": len(outcomes) - len(waits),
        "wait_p50_ms": round(percentile(waits, 0.5), 1) if waits else None,
        "wait_p95_ms": round(percentile(waits, 0.95), 1) if waits else None,
    }


def table(rows: list[dict[str, Any]], everything: dict[str, Any]) -> Table:
    """A row for each length of the pause, and one for all."""
    result = Table("pause", "cases", "cut off", "repaired", "share", "wait p50, ms", "wait p95, ms", title=machine())
    for row in [*rows, everything]:
        pause_ms = row.get("pause_ms")
        name = "all" if pause_ms is None else f"{pause_ms} ms" if pause_ms else "none"
        counts = [str(row[key]) for key in ("cases", "cut_off", "repaired")]
        waits = ["-" if row[key] is None else f"{row[key]:.0f}" for key in ("wait_p50_ms", "wait_p95_ms")]
        result.add_row(name, *counts, f"{row['cut_off'] / row['cases']:.1%}", *waits, end_section=row is rows[-1])
    return result


def explain(outcome: Outcome) -> str:
    """What happened in a case that was cut off: when each turn ended, counted from the last sound, and its text."""
    turns = []
    for turn, end_ms in outcome.ends_ms.items():
        again = " (reopened)" if turn in outcome.reopened else ""
        turns.append(f"{end_ms - outcome.speech_end_ms:+.0f} ms {outcome.texts.get(turn, '')!r}{again}")
    return f"{outcome.case.name}, {outcome.case.pause_ms} ms: {'; '.join(turns)}"


def speech(config: Config) -> tuple[str, list[Recording]]:
    """What is played: recordings, or without them the configured voice."""
    if available():
        return "recorded", recorded("librivox") + recorded("cards")
    print("no recorded speech (apt-get install pocketsphinx-testdata): synthesized speech instead", file=sys.stderr)
    return "synthesized", asyncio.run(synthesized(config))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Play all cases; the figures, and on stderr what went wrong."""
    config = Config.load(options.config) if options.config else Config()
    console = Console(stderr=True)
    kind, recordings = speech(config)
    clips = find_places(recordings, config, options.places)
    played = cases(clips, options.pauses)[: options.cases]
    backend = load_class(backend_class("stt", config.stt.backend), "stt.backend")(config)
    speaking = SpeakingStages(config)
    outcomes: list[Outcome] = []
    computed_ms = {True: 0.0, False: 0.0}
    final_waits_ms: list[float] = []
    with contextlib.closing(Model(backend, options.cache, options.decode_ms)) as model:
        for case in track(played, "talking", console=console, transient=True):
            outcome, talk = judge(case, config, model, speaking)
            outcomes.append(outcome)
            final_waits_ms += talk.backend.final_waits_ms
            for final, ms in talk.backend.computed_ms.items():
                computed_ms[final] += ms
            if options.show and outcome.cut_at:
                console.print(explain(outcome), markup=False, highlight=False)
    by_pause = {ms: [outcome for outcome in outcomes if outcome.case.pause_ms == ms] for ms in (0, *options.pauses)}
    return {
        "speech": kind,
        "rows": [{"pause_ms": pause_ms, **figures(some)} for pause_ms, some in by_pause.items() if some],
        "all": figures(outcomes),
        "speaking": config.to_dict()["speaking"],
        "decode_ms": options.decode_ms,
        "compute_ms": {"finals": round(computed_ms[True]), "interims": round(computed_ms[False])},
        "final_queue_ms": {
            "p50": round(percentile(final_waits_ms, 0.5), 1),
            "p95": round(percentile(final_waits_ms, 0.95), 1),
            "max": round(max(final_waits_ms, default=0.0), 1),
        },
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=None, help="TOML file (the defaults)")
    parser.add_argument("--places", type=int, default=3, help="places for a pause in each recording (3)")
    parser.add_argument(
        "--pauses", type=int, nargs="+", default=PAUSES_MS, metavar="MS", help="lengths of the pauses (200 400 600)"
    )
    parser.add_argument("--cases", type=int, default=None, help="only the first so many cases")
    parser.add_argument("--show", action="store_true", help="say what happened in each case that was cut off")
    parser.add_argument("--cache", type=Path, default=None, help="file that keeps what was decoded; nothing is recorded then")
    parser.add_argument(
        "--decode-ms", type=float, default=None, help="let each decode take this long instead of what it took (busy machines)"
    )
    options = parser.parse_args()
    result = run(options)
    console = Console()
    everything = result["all"]
    console.print(table(result["rows"], everything))
    waited, computed = result["final_queue_ms"], result["compute_ms"]
    console.print(
        f"model: finals {computed['finals'] / 1_000:.1f} s, interims {computed['interims'] / 1_000:.1f} s; "
        f"finals waited for it {waited['p50']:g} / {waited['p95']:g} / {waited['max']:g} ms (p50 / p95 / max)"
    )
    met = everything["cut_off"] <= MOST_CUT_OFFS * everything["cases"] and (everything["wait_p50_ms"] or 0) <= LONGEST_P50_MS
    console.print(
        f"aim: {MOST_CUT_OFFS:.0%} cut off at most, wait p50 {LONGEST_P50_MS:.0f} ms at most: {'met' if met else 'missed'}"
    )
    if options.cache is None and options.cases is None:
        path = append("endpointing", result)
        console.print(f"appended to {path.relative_to(path.parents[2])}", style="dim")


if __name__ == "__main__":
    main()
