"""``rtvi-actors status``, ``drain`` and ``stop``: look at a running app, let its sessions end, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from rtvi_actors.cli import local_ray, running
from rtvi_actors.cli.local_ray import ray
from rtvi_actors.errors import ConfigError, RtviActorsError

CALL_DEADLINE_S = 10.0
STOP_DEADLINE_S = 30.0


def status(app: str, address: str | None, *, as_json: bool) -> None:
    """Print what the scheduler knows.

    Raises:
        ConfigError: no such app.
    """
    with _scheduler(app, address) as scheduler:
        facts = ray.get(scheduler.status.remote(), timeout=CALL_DEADLINE_S)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)


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
            ray.get(scheduler.stop.remote(), timeout=STOP_DEADLINE_S)
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
            left = ray.get(drained, timeout=CALL_DEADLINE_S)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RtviActorsError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise RtviActorsError(f"app {app!r} ended, or does not answer: {type(error).__name__}") from error
    if left:
        raise RtviActorsError(f"{left} sessions of app {app!r} have not ended; see its log")
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


def _print(facts: dict[str, Any]) -> None:
    console = Console()
    capacity = facts["capacity"]
    console.print(f"{facts['app']}  {facts['url']}{'  draining' if facts['draining'] else ''}")
    console.print(
        f"sessions {capacity['sessions']} of {capacity['max_sessions']}, free now {capacity['free']}, "
        f"granted {capacity['granted']}, refused {capacity['refused']}"
    )
    sessions = Table("session", "age", "group", "role", "actor id", "pid", title="sessions", title_justify="left")
    for session in facts["sessions"]:
        for number, (role, actor) in enumerate(session["actors"].items()):
            first = (session["session"], f"{session['age_s']} s", session["group"]) if number == 0 else ("", "", "")
            sessions.add_row(*first, role, actor.get("actor_id", ""), str(actor["pid"]))
    if facts["sessions"]:
        console.print(sessions)
    actors = Table("actor", "kind", "pid", "actor id", title="engines and edges", title_justify="left")
    for actor in [*facts["engines"], *facts["edges"]]:
        actors.add_row(actor["name"], actor["kind"], str(actor["pid"]), actor.get("actor_id", ""))
    console.print(actors)
    if facts.get("figures"):
        console.print(_processes(facts["figures"]))
    groups = ", ".join(f"{group['name']} {group['state']} ({group['sessions']})" for group in facts["groups"])
    console.print(f"groups: {groups or 'none'}")


def _processes(figures: dict[str, dict[str, Any]]) -> Table:
    """What the processes of each role take, as they said within the last seconds."""
    title = "processes, by role"
    table = Table("role", "processes", "memory", "CPU time", "loop lag", "stalls", "requests", title=title, title_justify="left")
    for role, of in sorted(figures.items()):
        requests = f"{of['engine_in_flight']:.0f} in flight" if "engine_in_flight" in of else ""
        table.add_row(
            role,
            f"{of.get('processes', 0):.0f}",
            f"{of.get('memory_bytes', 0) / 2**20:.0f} MiB",
            f"{of.get('cpu_s', 0):.1f} s",
            f"{1_000 * of.get('loop_lag_s', 0):.0f} ms",
            f"{of.get('stalls', 0):.0f}",
            requests,
        )
    return table
