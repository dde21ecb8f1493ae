"""``rtvi-actors status``, ``drain`` and ``stop``: look at a running app, let its sessions end, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from rtvi_actors.cli import local_ray, running
from rtvi_actors.cli.local_ray import ray
from rtvi_actors.cli.status_view import Facts, overview, reasons
from rtvi_actors.errors import ConfigError, RtviActorsError

CALL_DEADLINE_S = 10.0
STOP_DEADLINE_S = 30.0
WATCH_PERIOD_S = 1.0


def status(app: str, address: str | None, *, as_json: bool, why: bool, watch: bool) -> None:
    """Print what the scheduler knows: all of it as JSON, or where each actor is and ``why``. ``watch`` shows it until Ctrl-C.

    Raises:
        ConfigError: no such app, or options that exclude each other.
        RtviActorsError: it ended, or does not answer.
    """
    if as_json and (why or watch):
        raise ConfigError("--json prints everything, once: leave out --why and --watch")
    view, console = reasons if why else overview, Console()
    if watch and not console.is_terminal:
        raise ConfigError("--watch needs a terminal; elsewhere ask again and again, with --json")
    with _scheduler(app, address) as scheduler:
        if watch:
            _watch(lambda: _ask(scheduler, app), view, console)
            return
        facts = _ask(scheduler, app)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        show(view(facts), console)


def show(parts: Iterable[RenderableType], console: Console) -> None:
    """Print a view. Lines of text are left as they are, however long: other programs may read them."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def _watch(ask: Callable[[], Facts], view: Callable[[Facts], Iterable[RenderableType]], console: Console) -> None:
    """Show the view anew each second, until Ctrl-C. What it showed last stays."""
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Group(*view(ask())), refresh=True)
            time.sleep(WATCH_PERIOD_S)


def _ask(scheduler: Any, app: str) -> Facts:
    try:
        facts: Facts = ray.get(scheduler.status.remote(), timeout=CALL_DEADLINE_S)
    except ray.exceptions.RayError as error:
        raise RtviActorsError(f"app {app!r} ended, or does not answer: {type(error).__name__}") from error
    return facts


def stop(app: str, address: str | None) -> None:
    """End the app and wait until it has ended.

    Raises:
        ConfigError: no such app.
    """
    if address is None:
        found = running.expect(app)
        if not _terminate(found.pid):
            raise ConfigError(f"app {app!r} (pid {found.pid}) has not ended within {STOP_DEADLINE_S:.0f} s")
    else:
        with _scheduler(app, address) as scheduler:
            try:
                ray.get(scheduler.stop.remote(), timeout=STOP_DEADLINE_S)
            finally:
                ray.kill(scheduler)
    print(f"stopped {app}")


def drain(app: str, address: str | None, timeout_s: int, node: str = "") -> None:
    """Let no more clients in, and wait until all sessions are over; with ``node``, until none is left on that node.

    Raises:
        ConfigError: no such app or node.
        RtviActorsError: some are left.
    """
    console = Console(stderr=True)
    with _scheduler(app, address) as scheduler, console.status("draining") as progress:
        try:
            drained = scheduler.drain_node.remote(node, timeout_s) if node else scheduler.drain.remote(timeout_s)
            while not ray.wait([drained], timeout=1.0)[0]:
                left = ray.get(scheduler.status.remote(), timeout=CALL_DEADLINE_S)["capacity"]["sessions"]
                progress.update(f"draining {node}: {left} sessions go on")
            found = ray.get(drained, timeout=CALL_DEADLINE_S)
            left, actors = (found["sessions"], found["actors"]) if node else (found, [])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RtviActorsError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise RtviActorsError(f"app {app!r} ended, or does not answer: {type(error).__name__}") from error
    if left:
        raise RtviActorsError(f"{left} sessions of app {app!r} have not ended; see its log")
    if actors:
        raise RtviActorsError(
            f"still on {node}: {', '.join(actors)}: there is no room for them elsewhere; see `rtvi-actors status --why`"
        )
    if node:
        print(f"drained {node}: nothing of {app} is left there, and nothing comes to it; the node may be stopped")
        return
    print(f"drained {app}: no session is left, and nobody is let in; `rtvi-actors stop` ends it")


def _terminate(pid: int) -> bool:
    """Ask ``serve``, which owns the local Ray, to end both. Says whether it has, whoever is to reap it."""
    with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb") as process:
        # As Ctrl-C does: SIGTERM may wait for the sessions.
        signal.pidfd_send_signal(process.fileno(), signal.SIGINT)
        ended, _, _ = select.select([process], [], [], STOP_DEADLINE_S)
        return bool(ended)
    return True


@contextlib.contextmanager
def _scheduler(app: str, address: str | None) -> Iterator[Any]:
    where = address or running.expect(app).address
    local_ray.connect(app, where)
    try:
        yield ray.get_actor(f"{app}/scheduler", namespace=app)
    except ValueError:
        raise ConfigError(f"no app {app!r} runs in the Ray cluster at {where}") from None
    finally:
        ray.shutdown()
