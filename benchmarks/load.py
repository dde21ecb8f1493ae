"""The load of fixed work: sessions that each speak a recorded utterance every 15 s and are answered with at most 24 tokens.

It is open-loop: an utterance begins at its time whether or not the server keeps up, so a server that stalls is not spared. An
utterance is lost when no sound of an answer came before the next one begins.
"""

from __future__ import annotations

import asyncio
import time
import tomllib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import ROOT, percentile
from rich.progress import Progress, TaskID

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import RtviClient, Utterance, gaps_ms
from rtvi_actors.testing.recordings import AUDIBLE_RMS, Recording, available, recorded, rms, synthesized

PERIOD_S = 15.0
MAX_TOKENS = 24
SHARED = "clusters/dense.toml"
FAST_VOICE = "clusters/dense_fast_voice.toml"
"""The profiles with shared groups."""


@dataclass(slots=True)
class Load:
    """What one number of sessions met."""

    sessions: int
    asked: int = 0
    refused: int = 0
    voice_to_voice_ms: list[float] = field(default_factory=list)
    gaps: int = 0
    client_late_ms: float = 0.0
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
            "client_late_ms": round(self.client_late_ms),
        }


def complete(figures: dict[str, Any]) -> bool:
    """Whether every session was taken and every utterance answered."""
    return not figures["lost"] and not figures["refused"] and figures["p95_ms"] is not None


def within(figures: dict[str, Any], limit_ms: float) -> bool:
    """Whether all sessions were answered in time."""
    return complete(figures) and figures["p95_ms"] <= limit_ms


async def clips() -> list[Recording]:
    """What the sessions say: the recorded speech, or where it is not installed the same texts synthesized."""
    return recorded("librivox") if available() else await synthesized(Config())


async def offer(
    url: str, said: list[Recording], sessions: int, seconds: float, progress: Progress, task: TaskID, ready_deadline_s: float = 10.0
) -> Load:
    """``sessions`` clients at once at ``url`` (http), their utterances evenly spread over the period."""
    found = Load(sessions)
    async with AsyncExitStack() as stack:
        clients: list[RtviClient] = []
        for _ in range(sessions):
            client = RtviClient(url.replace("http", "ws", 1) + "/ws", ready_deadline_s=ready_deadline_s)
            try:
                clients.append(await stack.enter_async_context(client))
            except RtviActorsError as error:
                found.refused += 1
                found.problems.append(str(error))
        began = time.monotonic() + 1.0
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                at = began + number * PERIOD_S / max(1, len(clients))
                mine = said[number % len(said) :] + said[: number % len(said)]
                group.create_task(_talk(client, mine, at, began + seconds, found), name=f"session {number}")
            while time.monotonic() < began + seconds:
                await asyncio.sleep(0.5)
                progress.advance(task, 0.5)
    found.client_late_ms = max((client.late_ms for client in clients), default=0.0)
    return found


async def _talk(client: RtviClient, said: list[Recording], at: float, until: float, found: Load) -> None:
    """An utterance each period; what was asked in the last one has a period to be answered.

    A session that ended too early loses all that it should still have been asked.
    """
    utterances: list[Utterance] = []
    while at < until:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        try:
            utterances.append(client.say(said[len(utterances) % len(said)].pcm))
        except RtviActorsError as error:
            found.problems.append(str(error))
        found.asked += 1
        at += PERIOD_S
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    ends_ns = [*(utterance.started_ns for utterance in utterances[1:]), time.monotonic_ns()]
    for utterance, end_ns in zip(utterances, ends_ns, strict=False):
        answer = [chunk for chunk in client.audio[utterance.first_audio :] if utterance.ended_ns <= chunk[1] < end_ns]
        first_ns = next((at_ns for pcm, at_ns in answer if rms(pcm) > AUDIBLE_RMS), None)
        if first_ns is not None and utterance.ended_ns:
            found.voice_to_voice_ms.append((first_ns - utterance.ended_ns) / 1e6)
        found.gaps += len(gaps_ms(answer))


def configuration(folder: Path, profile: str | None, most: int, *, own: bool = False) -> Path:
    """``profile`` (None: the defaults) with short answers and room for ``most`` sessions, as a file in ``folder``.

    ``own``: a warm group for each of them.
    """
    data = tomllib.loads((ROOT / profile).read_text(encoding="utf-8")) if profile else {}
    scheduler = {**data.get("scheduler", {}), "max_sessions": most}
    if own:
        scheduler["warm_groups"] = most
    elif scheduler.get("sessions_per_group", 1) * scheduler.get("warm_groups", 1) < most:
        scheduler["warm_groups"] = -(-most // scheduler.get("sessions_per_group", 1))
    data = {**data, "llm": {**data.get("llm", {}), "max_tokens": MAX_TOKENS}, "scheduler": scheduler}
    path = folder / "load.toml"
    lines = [line for section, keys in data.items() for line in (f"[{section}]", *(f"{key} = {_toml(keys[key])}" for key in keys))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else f'"{value}"'
