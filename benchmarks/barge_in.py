"""Barge-in at the client: from the user's first audible sound to the last sound of the bot that is still heard.

A recording is answered; while the bot speaks, another recording is said into its answer. The user's first sound is where the
recording rises out of the noise of its room: the first of three windows of 10 ms that are louder than a tenth of its loud parts
(the noise alone has an RMS of 40 to 350 in these recordings, speech of 1,000 to 8,000). The bot's last sound is the end of what a
player holds of the old answer: what was sent plus what is still queued in it. A bot that is only paused is silent, too. An answer
that is over before it can be interrupted does not count; another one is asked for.

    python benchmarks/barge_in.py                  30 interruptions
    python benchmarks/barge_in.py --count 10 --url http://127.0.0.1:7860
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import append, machine, percentile, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import BOT_RATE_HZ, RtviClient, Utterance
from rtvi_actors.testing.recordings import AUDIBLE_RMS, RATE_HZ, Recording, available, recorded, synthesized

INTO_ANSWER_S = (0.6, 1.0, 1.4, 1.8)
"""How far into the answer it is interrupted, in turn."""
LEAD_IN_MS = 40
"""Of the room's noise, left in front of the recording's first sound."""
MAX_OVER = 20
"""Answers that may be over too early; then the benchmark gives up."""
REST_S = 1.0


class AnswerOverError(RtviActorsError):
    """The answer was over before it could be interrupted."""


def onset_ms(pcm: bytes) -> int:
    """Where the first audible sound of ``pcm`` begins, see above; 0 if there is none."""
    window = RATE_HZ // 100
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    loudness = np.sqrt((samples[: len(samples) // window * window].reshape(-1, window) ** 2).mean(axis=1))
    loud = loudness > max(AUDIBLE_RMS, np.percentile(loudness, 95) / 10)
    onsets = np.flatnonzero(loud[:-2] & loud[1:-1] & loud[2:])
    return int(onsets[0]) * 10 if len(onsets) else 0


def from_onset(recording: Recording) -> bytes:
    """The recording with only ``LEAD_IN_MS`` in front of its first sound."""
    return recording.pcm[max(0, onset_ms(recording.pcm) - LEAD_IN_MS) * RATE_HZ // 1_000 * 2 :]


def last_heard_ns(audio: list[tuple[bytes, int]]) -> float:
    """When a player that got ``audio`` (PCM16 24 kHz, ns of arrival) has played the last of it."""
    played_ns = 0.0
    for pcm, at_ns in audio:
        played_ns = max(played_ns, float(at_ns)) + len(pcm) / 2 / BOT_RATE_HZ * 1e9
    return played_ns


async def interrupt(client: RtviClient, question: bytes, interruption: bytes, into_answer_s: float) -> dict[str, Any]:
    """One interruption: what it took, and what came of the old answer behind bot-interrupted.

    Raises:
        AnswerOverError: there was nothing to interrupt any more.
        RtviActorsError: the question was not answered, or the bot was not interrupted.
    """
    first = len(client.messages)
    asked = client.say(question)
    await asked.done.wait()
    await client.wait(lambda message: message.type == "bot-started-speaking" and message.at_ns > asked.ended_ns, 30.0, first)
    await asyncio.sleep(into_answer_s)
    utterance: Utterance = client.say(interruption)
    ends = {"bot-interrupted", "bot-stopped-speaking"}
    told = await client.wait(lambda message: message.type in ends and message.at_ns > asked.ended_ns, 10.0, first)
    if told.type == "bot-stopped-speaking":
        await client.turn(utterance)
        raise AnswerOverError("the answer was over before")
    old = [chunk for chunk in client.audio[asked.first_audio :] if chunk[1] <= told.at_ns]
    started_ns = utterance.started_ns + onset_ms(interruption) * 1e6
    answer = await client.turn(utterance)
    since = [message for message in client.messages[utterance.first_message :] if message.at_ns > told.at_ns]
    started = next(message for message in since if message.type == "bot-started-speaking")
    late = [chunk for chunk in client.audio if told.at_ns < chunk[1] < started.at_ns]
    return {
        "ms": (last_heard_ns(old) - started_ns) / 1e6,
        "told_ms": (told.at_ns - started_ns) / 1e6,
        "late_frames": len(late),
        "words": len(" ".join(answer.transcripts).split()),
    }


async def measure(url: str, count: int) -> tuple[list[dict[str, Any]], int]:
    """``count`` interruptions in one session: their figures, and how many did not happen."""
    clips = recorded("librivox") if available() else await synthesized(Config())
    results: list[dict[str, Any]] = []
    failed = over = number = 0
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("interruptions", total=count)
        async with RtviClient(url.replace("http", "ws", 1) + "/ws") as client:
            while len(results) + failed < count and over < MAX_OVER and not client.closed:
                question, interruption = clips[number % len(clips)], from_onset(clips[(number + 2) % len(clips)])
                into_s = INTO_ANSWER_S[number % len(INTO_ANSWER_S)]
                number += 1
                await asyncio.sleep(REST_S)
                try:
                    results.append(await interrupt(client, question.pcm, interruption, into_s))
                except AnswerOverError:
                    over += 1
                    continue
                except RtviActorsError as error:
                    failed += 1
                    progress.console.print(f"interruption {number}: {error}", style="red", markup=False)
                progress.advance(task)
    return results, failed


def figures(results: list[dict[str, Any]], failed: int) -> dict[str, Any]:
    """What is printed and recorded."""
    silent, told = [result["ms"] for result in results], [result["told_ms"] for result in results]
    return {
        "interruptions": len(results) + failed,
        "failed": failed,
        "p50_ms": round(percentile(silent, 0.5), 1),
        "p95_ms": round(percentile(silent, 0.95), 1),
        "max_ms": round(max(silent, default=0.0), 1),
        "told_p50_ms": round(percentile(told, 0.5), 1),
        "late_frames": sum(result["late_frames"] for result in results),
    }


def main() -> None:
    """Run the benchmark; exit code 1 when an interruption failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="interruptions (30)")
    parser.add_argument("--config", default=None, help="configuration of the server that is started")
    parser.add_argument("--url", default=None, help="use this running server instead")
    options = parser.parse_args()
    if not available():
        print("no recorded speech (apt-get install pocketsphinx-testdata): synthesized speech instead", file=sys.stderr)
    if options.url:
        results, failed = asyncio.run(measure(options.url, options.count))
    else:
        with server(*([options.config] if options.config else [])) as (url, _):
            results, failed = asyncio.run(measure(url, options.count))
    found = figures(results, failed)
    table = Table("figure", "value", title=f"barge-in, first audible sample to last bot audio heard, {machine()}")
    for name, value in found.items():
        table.add_row(name, f"{value:g}")
    console = Console()
    console.print(table)
    path = append("barge_in", {"speech": "recorded" if available() else "synthesized", **found})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
