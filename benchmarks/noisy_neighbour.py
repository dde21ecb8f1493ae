"""What one bad session does to the others: the intervals between their audio frames, with and without it, in the same run.

N quiet sessions have a text spoken to them at the same time, again and again. Beside them one more session of the same server is

* ``control``: silent, as it is connected all the time;
* ``blocks``: its bot blocks its own event loop for 2 s, again and again;
* ``floods``: it sends messages at the rate that is allowed (``edge.max_messages_per_s``);
* ``holds``, once and last: its bot holds Python's interpreter for 2 s, so that no thread of its process runs, nor its heartbeat.

The bad client is a process of its own. Everything else takes turns, several times; ``p99 ratio`` is to the control.
With shared groups the server's log must have named the code that blocked; without that line the exit code is 1.

    python benchmarks/noisy_neighbour.py
    python benchmarks/noisy_neighbour.py --groups own --quiet 2 --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from models import table
from record import ROOT, append, machine, percentile, server
from rich.console import Console
from rich.progress import Progress

from rtvi_actors.config import Config
from rtvi_actors.errors import CapacityError, RtviActorsError
from rtvi_actors.testing.client import RtviClient, gaps_ms

KINDS = ("control", "blocks", "floods")
LAST = "holds"
BOT = f"{ROOT / 'benchmarks' / 'neighbour_bot.py'}:Neighbour"
CULPRIT = re.compile(r"the bot Neighbour (?:stood|stands) still .*neighbour_bot\.py:\d+ on_turn")
AGAIN_S = 2.2
"""From one misdeed of the bot to the next: it takes 2 s."""
FLOOD_TICK_S = 0.02
TURN_DEADLINE_S = PLACE_DEADLINE_S = 60.0


async def connected(url: str, *, microphone: bool) -> RtviClient:
    """A session, as soon as there is a place: groups are still being started when the server is ready for its first client.

    Raises:
        CapacityError: there was none for ``PLACE_DEADLINE_S``.
    """
    deadline = time.monotonic() + PLACE_DEADLINE_S
    while True:
        try:
            return await RtviClient(url, microphone=microphone).__aenter__()
        except CapacityError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)


# ------------------------------------------------------------------------------------------------------ the bad client's process


async def misbehave(url: str) -> None:
    """One session. A kind on standard input begins it, ``control`` ends it; each is answered by a line. Ends with the input."""
    kind = "control"

    async def act() -> None:
        while True:
            if kind == "floods":
                for _ in range(int(Config().edge.max_messages_per_s * FLOOD_TICK_S)):
                    client.send("client-message", {"t": "flood", "d": {}})
                await asyncio.sleep(FLOOD_TICK_S)
            elif kind == "control":
                await asyncio.sleep(FLOOD_TICK_S)
            else:
                client.send_text(kind.removesuffix("s"))
                await asyncio.sleep(AGAIN_S)

    client = await connected(url, microphone=False)
    try:
        acting = asyncio.create_task(act(), name="misbehave")
        print("ready", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            kind = line
            print(kind, flush=True)
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
    finally:
        await client.close()


# --------------------------------------------------------------------------------------------------------------- this process


@contextlib.asynccontextmanager
async def neighbour(url: str) -> AsyncIterator[Process]:
    """The bad client's process, connected."""
    child = await asyncio.create_subprocess_exec(sys.executable, __file__, "--misbehave", url, stdin=PIPE, stdout=PIPE)
    assert child.stdin is not None
    try:
        await _answered(child, "ready")
        yield child
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), TURN_DEADLINE_S)


async def become(child: Process, kind: str) -> None:
    """Tell the bad client what to do."""
    assert child.stdin is not None
    child.stdin.write(f"{kind}\n".encode())
    await _answered(child, kind)


async def _answered(child: Process, expected: str) -> None:
    assert child.stdout is not None
    line = (await asyncio.wait_for(child.stdout.readline(), TURN_DEADLINE_S)).decode().strip()
    if line != expected:
        raise RuntimeError(f"the bad client said {line!r} instead of {expected!r}")


def intervals_ms(chunks: list[tuple[bytes, int]]) -> list[float]:
    """From each frame of an answer to the next, by their arrival."""
    return [(after - before) / 1e6 for (_, before), (_, after) in pairwise(chunks)]


class Met:
    """What the quiet sessions met beside a neighbour of one kind."""

    def __init__(self) -> None:
        self.intervals_ms: list[float] = []
        self.answers = self.gaps = self.lost = 0

    async def listen(self, client: RtviClient) -> None:
        """One answer, as far as the session lasts."""
        utterance = client.send_text("Tell me about the hotel.")
        try:
            await client.turn(utterance, deadline_s=TURN_DEADLINE_S)
            self.answers += 1
        except RtviActorsError:
            self.lost += 1
        chunks = client.audio[utterance.first_audio :]
        self.intervals_ms += intervals_ms(chunks)
        self.gaps += len(gaps_ms(chunks))

    def figures(self, groups: str, kind: str, control: Met) -> dict[str, Any]:
        """What is printed and recorded."""
        p99_ms = percentile(self.intervals_ms, 0.99)
        return {
            "groups": groups,
            "neighbour": kind,
            "answers": self.answers,
            "frames": len(self.intervals_ms),
            "p50_ms": round(percentile(self.intervals_ms, 0.5), 1),
            "p99_ms": round(p99_ms, 1),
            "max_ms": round(max(self.intervals_ms, default=0.0), 1),
            "p99_ratio": round(p99_ms / percentile(control.intervals_ms, 0.99), 2),
            "gaps_over_40_ms": self.gaps,
            "answers_lost": self.lost,
        }


async def measure(url: str, groups: str, options: argparse.Namespace, progress: Progress) -> list[dict[str, Any]]:
    """A row for each kind of neighbour."""
    socket = url.replace("http", "ws", 1) + "/ws"
    met = {kind: Met() for kind in (*KINDS, LAST)}
    task = progress.add_task(f"{groups} groups", total=options.rounds * len(KINDS) + 1)
    async with contextlib.AsyncExitStack() as stack:
        quiet = []
        for _ in range(options.quiet):
            quiet.append(await connected(socket, microphone=True))
            stack.push_async_callback(quiet[-1].close)
        child = await stack.enter_async_context(neighbour(socket))
        for number in range(options.rounds):
            for kind in (*KINDS[number % len(KINDS) :], *KINDS[: number % len(KINDS)]):
                await become(child, kind)
                await asyncio.gather(*(met[kind].listen(client) for client in quiet))
                await become(child, "control")
                await asyncio.sleep(AGAIN_S)  # what was begun is over
                progress.advance(task)
        await become(child, LAST)
        await asyncio.gather(*(met[LAST].listen(client) for client in quiet if not client.closed))
    return [found.figures(groups, kind, met["control"]) for kind, found in met.items()]


def profile(groups: str, quiet: int, folder: Path) -> str:
    """A configuration with a place for all, no matter how long starting takes."""
    if groups == "shared":
        return "clusters/dense.toml"
    path = folder / "own.toml"
    path.write_text(f"[scheduler]\nwarm_groups = {quiet + 1}\nmax_sessions = {quiet + 1}\n", encoding="utf-8")
    return str(path)


def main() -> None:
    """Run the benchmark; exit code 1 when the log does not name the culprit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", choices=("own", "shared"), nargs="+", default=["own", "shared"], help="(both)")
    parser.add_argument("--quiet", type=int, default=3, help="quiet sessions (3)")
    parser.add_argument("--rounds", type=int, default=2, help="answers of each quiet session beside each kind (2)")
    parser.add_argument("--misbehave", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.misbehave:
        asyncio.run(misbehave(options.misbehave))
        return
    console, rows, named = Console(), [], {}
    with Progress(transient=True, console=Console(stderr=True)) as progress, tempfile.TemporaryDirectory() as folder:
        for groups in options.groups:
            log = Path(folder) / f"{groups}.log"
            where = profile(groups, options.quiet, Path(folder))
            with log.open("w", encoding="utf-8") as stderr, server(where, "--bot", BOT, stderr=stderr) as (url, _):
                rows += asyncio.run(measure(url, groups, options, progress))
            named[groups] = [line for line in log.read_text(encoding="utf-8").splitlines() if CULPRIT.search(line)]
    console.print(table(f"frames of {options.quiet} quiet sessions beside a bad one, {machine()}", rows))
    for groups, lines in named.items():
        console.print(
            f"{groups} groups: {lines[0] if lines else 'nothing in the log names the culprit'}", markup=False, style="dim"
        )
    counts = {groups: len(lines) for groups, lines in named.items()}
    path = append("noisy_neighbour", {"quiet": options.quiet, "rows": rows, "log_lines_with_culprit": counts})
    console.print(f"appended to {path.relative_to(ROOT)}", style="dim")
    if counts.get("shared") == 0:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
