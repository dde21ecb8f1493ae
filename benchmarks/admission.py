"""How fast places are given and refused, and whether exactly as many are given as there are.

* The table alone: ``Admissions``, a place taken and one given back, with 1, 100 and 10,000 shared groups that are half full.
  Aim: 20,000 a second or more.
* Over HTTP, with fake models and one shared group of 16 places: 1,000 ``POST /start`` at once get 16 addresses and 984 refusals,
  each with a detail and when to come again. Nobody connects; after 10 s the places are back, and 1,000 more get 16 again.
* Those 16 are taken by clients that stay. While all is full, 200 ``POST /start`` a second, each on a connection of its own and
  sent at its time whether or not the others are answered. Aim: p99 of the refusals at most 50 ms, from the moment when a request
  was due; how late the client itself was stands beside it.

The exit code is 1 when a place is missing or given twice, or when a refusal does not say what it should.

    python benchmarks/admission.py
    python benchmarks/admission.py --burst 5000 --rate 400 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from record import ROOT, append, machine, percentile, server
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rtvi_actors.config import Scheduler
from rtvi_actors.edge.sessions import RESERVED_S
from rtvi_actors.scheduler.admission import Admissions
from rtvi_actors.testing.client import RtviClient

PLACES = 16
GROUPS = (1, 100, 10_000)
ROUNDS = 3
PAIRS_AIM, P99_AIM_MS = 20_000, 50.0
BACK_MARGIN_S = 1.0
"""After the 10 s for which a place is kept."""
DEADLINE_S = 30.0
"""For one answer."""
CONFIGURATION = f"""\
[stt]
backend = "rtvi_actors.testing.fakes:FakeStt"
[llm]
backend = "rtvi_actors.testing.fakes:FakeLlm"
[tts]
backend = "rtvi_actors.testing.fakes:FakeTts"
[scheduler]
sessions_per_group = {PLACES}
warm_groups = 1
max_sessions = {PLACES}
"""
EDGE = "bench/edge/0"

# ------------------------------------------------------------------------------------------------------------ the table alone


def half_full(groups: int) -> tuple[Admissions, deque[str]]:
    """A table of ``groups`` shared groups, and the sessions that have every second place of them, oldest first."""
    table = Admissions(Scheduler(sessions_per_group=PLACES, warm_groups=groups, max_sessions=PLACES * groups))
    for number in range(groups):
        table.group_starting(f"{number}")
        table.group_ready(f"{number}", {EDGE})
    sessions = deque(f"{number:016x}" for number in range(PLACES * groups // 2))
    for session in sessions:
        table.admit(session, EDGE, 0)
    return table, sessions


def pairs_per_s(groups: int, pairs: int) -> float:
    """How many times a second a place is taken by a new session, and the oldest one's given back."""
    table, sessions = half_full(groups)
    coming = [f"new-{number}" for number in range(pairs)]
    began = time.perf_counter()
    for now_ms, session in enumerate(coming):
        table.admit(session, EDGE, now_ms)
        sessions.append(session)
        table.release(sessions.popleft(), clean=True)
    took_s = time.perf_counter() - began
    assert table.taken == len(sessions)
    return pairs / took_s


# ------------------------------------------------------------------------------------------------------------------ over HTTP


@dataclass(frozen=True, slots=True)
class Answer:
    """What one POST /start was answered, and how long that took from the moment when it was due. Status 0: not at all."""

    status: int
    headers: dict[str, str]
    body: Any
    took_ms: float

    @property
    def place(self) -> str:
        """Where to connect; "" in a refusal."""
        return str(self.body["wsUrl"]) if self.status == 200 and isinstance(self.body, dict) and "wsUrl" in self.body else ""

    @property
    def problem(self) -> str:
        """What is wrong with it: neither a place nor a refusal that says why and when to come again. "" for nothing."""
        if self.place:
            return ""
        if self.status != 503 or not isinstance(self.body, dict):
            return f"answered {self.status}: {self.body}"
        after_ms = self.body.get("retry_after_ms", 0)
        honest = bool(self.body.get("detail")) and after_ms > 0 and self.headers.get("retry-after") == str(-(-after_ms // 1_000))
        return "" if honest else f"a refusal with {self.body}, Retry-After {self.headers.get('retry-after')}"


async def ask(url: str, due: float | None = None) -> Answer:
    """One POST /start over a connection of its own. Plain bytes: a client library would take more time than the server."""
    where, due = urlsplit(url), time.perf_counter() if due is None else due
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            try:
                writer.write(
                    b"POST /start HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % where.netloc.encode()
                )
                raw = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return Answer(0, {}, f"{type(error).__name__} {error}".strip(), 1e3 * (time.perf_counter() - due))
    took_ms = 1e3 * (time.perf_counter() - due)
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        return Answer(int(first.split()[1]), headers, json.loads(body), took_ms)
    except (ValueError, IndexError):
        return Answer(0, headers, f"no HTTP: {raw[:60]!r}", took_ms)


@dataclass(slots=True)
class Asked:
    """What a number of requests met."""

    answers: list[Answer] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    """How late each request was sent by the client itself."""

    @property
    def places(self) -> list[str]:
        """Where those who got a place may connect."""
        return [answer.place for answer in self.answers if answer.place]

    def figures(self, load: str, places: int) -> dict[str, Any]:
        """What is printed and recorded; ``places`` are expected to be given."""
        refused_ms = [answer.took_ms for answer in self.answers if answer.status == 503]
        row: dict[str, Any] = {"load": load, "asked": len(self.answers), "places": places, "given": len(set(self.places))}
        row["refused"] = len(refused_ms)
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
            row[name] = round(percentile(refused_ms, share), 1) if refused_ms else None
        for name, share in (("late_p99_ms", 0.99), ("late_max_ms", 1.0)):
            row[name] = round(percentile(self.late_ms, share), 1) if self.late_ms else None
        row["details"] = dict(
            Counter(answer.body["detail"] for answer in self.answers if answer.status == 503 and not answer.problem)
        )
        return row

    def problems(self, places: int) -> list[str]:
        """What is wrong with these answers, if exactly ``places`` should have been given. Each sort once."""
        found = Counter(answer.problem for answer in self.answers if answer.problem)
        problems = [f"{count} times: {problem}" for problem, count in found.items()]
        if len(self.places) != len(set(self.places)):
            problems.append("a place was given twice")
        if len(set(self.places)) != places:
            problems.append(f"{len(set(self.places))} places were given, there are {places}")
        return problems


async def at_once(url: str, count: int) -> Asked:
    """``count`` requests at the same moment."""
    due = time.perf_counter()
    return Asked(await asyncio.gather(*(ask(url, due) for _ in range(count))))


async def in_turn(url: str, per_s: float, seconds: float, progress: Callable[[float], Any] = lambda _: None) -> Asked:
    """``per_s`` requests a second, each at its time whether or not the earlier ones are answered."""
    asked, waiting = Asked(), []
    began = time.perf_counter() + 0.1
    for number in range(round(per_s * seconds)):
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.late_ms.append(max(0.0, 1e3 * (time.perf_counter() - due)))
        waiting.append(asyncio.create_task(ask(url, due), name=f"request {number}"))
        progress(1 / per_s)
    asked.answers = await asyncio.gather(*waiting)
    return asked


async def over_http(url: str, options: argparse.Namespace, progress: Progress) -> tuple[list[dict[str, Any]], list[str]]:
    """Two crowds and a stream of requests: their figures, and what was wrong."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    task = progress.add_task("", total=None)

    async def do(name: str, places: int, seconds: float | None, work: Awaitable[Asked]) -> Asked:
        progress.update(task, description=name, total=seconds, completed=0)
        asked = await work
        rows.append(asked.figures(name, places))
        problems.extend(f"{name}: {problem}" for problem in asked.problems(places))
        return asked

    await do(f"{options.burst} at once", PLACES, None, at_once(url, options.burst))
    wait_s = RESERVED_S + BACK_MARGIN_S
    progress.update(task, description="nobody connects", total=wait_s, completed=0)
    for _ in range(round(wait_s * 2)):
        await asyncio.sleep(0.5)
        progress.advance(task, 0.5)
    crowd = await do(f"{options.burst} at once, {wait_s:g} s later", PLACES, None, at_once(url, options.burst))
    async with AsyncExitStack() as stack:
        for place in crowd.places:
            await stack.enter_async_context(RtviClient(place, microphone=False))
        stream = in_turn(url, options.rate, options.seconds, lambda step: progress.advance(task, step))
        await do(f"{options.rate:g} a second while full", 0, options.seconds, stream)
    return rows, problems


# -------------------------------------------------------------------------------------------------------------------- output


def show(console: Console, pairs: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Both tables."""
    alone = Table("shared groups", "admitted and released a second", title=f"The table of places alone, {machine()}")
    for pair in pairs:
        alone.add_row(f"{pair['groups']:,}", f"{pair['pairs_per_s']:,}")
    console.print(alone)
    if rows:
        keys = [key for key in rows[0] if key != "details"]
        table = Table(*(key.replace("_ms", ", ms").replace("_", " ") for key in keys), title="POST /start; times of the refusals")
        for row in rows:
            table.add_row(*("-" if row[key] is None else str(row[key]) for key in keys))
        console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000, help="places taken and given back at the table alone (100000)")
    parser.add_argument("--burst", type=int, default=1_000, help="requests at once (1000)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second while all is full (200)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of these requests (15); 0: nothing over HTTP")
    options = parser.parse_args()
    console = Console()
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("the table alone", total=len(GROUPS) * ROUNDS)
        pairs = []
        for groups in GROUPS:
            found = []
            for _ in range(ROUNDS):
                found.append(pairs_per_s(groups, options.pairs))
                progress.advance(task)
            pairs.append({"groups": groups, "pairs_per_s": round(percentile(found, 0.5))})
        if options.seconds:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "admission.toml"
                path.write_text(CONFIGURATION, encoding="utf-8")
                with server(str(path)) as (url, _):
                    rows, problems = asyncio.run(over_http(url, options, progress))
    show(console, pairs, rows)
    for problem in problems:
        console.print(problem, style="red", highlight=False)
    aims = {"pairs_per_s": PAIRS_AIM, "p99_ms": P99_AIM_MS}
    written = append("admission", {"table": pairs, "rows": rows, "problems": problems, "aims": aims})
    console.print(f"appended to {written.relative_to(ROOT)}", style="dim")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
