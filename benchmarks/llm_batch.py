"""Language models in company: sessions that all ask at once, on one backend, with its real weights.

Each session has had a turn already; what is timed is its next one, when the backend may have most of the prompt computed. First
token: from the question to the first text. Tokens per second: over all sessions, from the questions to the last token. Ratio: to
one session alone with the same context.

    python benchmarks/llm_batch.py                        ctranslate2, openvino and transformers
    python benchmarks/llm_batch.py openvino --sessions 1 8
    python benchmarks/llm_batch.py transformers --device cuda
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import append, machine, percentile
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.llm.engine import ChatMessage, LlmRequest
from rtvi_actors.runtime.process import limit_threads, load_class

BACKENDS = ("ctranslate2", "openvino", "transformers")
CONTEXTS = (30, 250)
ANSWER_TOKENS = 24
IDLE_S = 1.5
"""Between two rounds, for what a backend computes while nobody waits."""
TOPICS = ("the sea", "red foxes", "old lighthouses", "jazz music", "mountain trains", "honey bees", "the moon", "rainy cities")
SYSTEM = ChatMessage("system", "You are a friendly voice assistant. Answer in one or two short sentences.")


@dataclass(frozen=True)
class Timed:
    """One answer. Times from the question on."""

    first_ms: float
    last_ms: float
    tokens: int


def conversation(session: int, round_number: int, context_tokens: int) -> list[ChatMessage]:
    """What a session has said before its question of a round: about ``context_tokens`` with the question, and its own words."""
    topic = TOPICS[session % len(TOPICS)]
    messages = [SYSTEM]
    if context_tokens > 100:
        told = f"Well, {topic} can be quite interesting, and people have written about it for a long time. "
        messages += [
            ChatMessage("user", f"Story {round_number}: tell me something about {topic}."),
            ChatMessage("assistant", (told * (max(1, (context_tokens - 60) // 19))).strip()),
        ]
    return messages


def question(session: int, round_number: int) -> ChatMessage:
    """What it asks in a round."""
    kind = ("most", "least", "best", "in winter", "in summer", "at night")[round_number % 6]
    return ChatMessage("user", f"What do you like {kind} about {TOPICS[session % len(TOPICS)]}?")


def row(backend: str, context_tokens: int, sessions: int, rounds: list[list[Timed]], alone_per_s: float | None) -> dict[str, Any]:
    """The figures of some rounds. ``alone_per_s``: tokens per second of one session, None if this is it."""
    first_ms = [timed.first_ms for answers in rounds for timed in answers]
    tokens = sum(timed.tokens for answers in rounds for timed in answers)
    wall_s = sum(max(timed.last_ms for timed in answers) for answers in rounds) / 1_000
    per_s = tokens / wall_s
    return {
        "backend": backend,
        "context_tokens": context_tokens,
        "sessions": sessions,
        "first_p50_ms": round(percentile(first_ms, 0.5), 1),
        "first_p95_ms": round(percentile(first_ms, 0.95), 1),
        "tokens_per_s": round(per_s, 1),
        "ratio": round(per_s / (alone_per_s or per_s), 2),
    }


async def answer(backend: Any, session: str, messages: list[ChatMessage], max_tokens: int = ANSWER_TOKENS) -> Timed:
    """Ask, and time what comes."""
    begun, first_ms, tokens = time.perf_counter(), 0.0, 0
    async for piece in backend.stream(session, LlmRequest(messages, max_tokens)):
        first_ms = first_ms or (time.perf_counter() - begun) * 1_000
        tokens = max(tokens, piece.completion_tokens)
    return Timed(first_ms, (time.perf_counter() - begun) * 1_000, tokens)


async def measure(backend: Any, context_tokens: int, sessions: int, rounds: int, step: Callable[[], None]) -> list[list[Timed]]:
    """Rounds of answers to questions that all sessions ask at once."""
    results = []
    for number in range(rounds):
        talks = [conversation(session, number, context_tokens) for session in range(sessions)]
        names = [f"s{session}" for session in range(sessions)]
        # The turn before: the same conversation up to what the bot said last.
        for name, talk in zip(names, talks, strict=True):
            await answer(backend, name, [*talk, ChatMessage("user", "Go on.")], 1)
        await asyncio.sleep(IDLE_S)
        asked = [[*talk, question(session, number)] for session, talk in enumerate(talks)]
        results.append(list(await asyncio.gather(*(answer(backend, *each) for each in zip(names, asked, strict=True)))))
        step()
    for session in range(sessions):
        backend.forget(f"s{session}")
    return results


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backends", nargs="*", default=BACKENDS, help=f"short names or module:Class ({' '.join(BACKENDS)})")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], help="sessions that ask at once (1 2 4 8)")
    parser.add_argument("--rounds", type=int, default=5, help="questions of each session (5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the model (1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs (cpu)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    limit_threads(options.threads)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(options.backends) * len(CONTEXTS) * len(options.sessions) * options.rounds)
        for name in options.backends:
            llm = {"backend": name, "threads": options.threads, "max_batch": max(options.sessions)}
            config = Config().replace(llm={**llm, "num_gpus": 1.0 if options.device == "cuda" else 0.0})
            backend = load_class(backend_class("llm", name), "backend")(config)
            progress.update(task, description=f"{name}: loading")
            backend.load()
            backend.warm_up()
            for context_tokens in CONTEXTS:
                alone_per_s = None
                for sessions in options.sessions:
                    progress.update(task, description=f"{name}, {sessions} sessions, {context_tokens} tokens")
                    timed = asyncio.run(measure(backend, context_tokens, sessions, options.rounds, lambda: progress.advance(task)))
                    rows.append(row(name, context_tokens, sessions, timed, alone_per_s))
                    if sessions == 1:
                        alone_per_s = rows[-1]["tokens_per_s"]
            backend.close()
    title = f"Next turn, {ANSWER_TOKENS} tokens, {options.threads} threads, {options.device}, {machine()}"
    table = Table("backend", "context", "sessions", "first p50, ms", "first p95, ms", "tokens/s", "ratio to one", title=title)
    for each in rows:
        table.add_row(*(f"{value:g}" if isinstance(value, int | float) else str(value) for value in each.values()))
    console = Console()
    console.print(table)
    path = append("llm_batch", {"device": options.device, "threads": options.threads, "rows": rows})
    console.print(f"appended to {path.relative_to(Path(__file__).parents[1])}", style="dim")


if __name__ == "__main__":
    main()
