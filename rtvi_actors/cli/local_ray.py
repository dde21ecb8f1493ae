"""Ray as the command line starts or joins it. Import ``ray`` from here: part of its environment is read when it is imported."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import psutil

from rtvi_actors.cli import actor_log
from rtvi_actors.cli.guardian import with_descendants
from rtvi_actors.errors import ConfigError
from rtvi_actors.runtime.supervise import end_processes, start_time_of

# Workers run at niceness 15 otherwise, where anything else on the machine would take the cores from live audio.
os.environ.setdefault("RAY_worker_niceness", "0")
# The token of a local Ray lies in the user's home; without the mode, another process does not look for it when it joins.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
if not sys.stderr.isatty():
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")

import ray

__all__ = ["connect", "ray", "shut_down", "start"]

OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""Ray's smallest: nothing of ours passes through it."""
CONNECT_DEADLINE_S = 5.0
END_GRACE_S = 1.0
"""How long Ray's processes may take to end by themselves."""


def start(app: str, address: str | None, *, json_log: bool = False) -> dict[int, float]:
    """Start a local Ray for ``app``, or join the cluster at ``address``. Workers find user code in the current folder.

    ``json_log``: all that they print is given on as JSON.

    Returns:
        Ray's processes that this one has started, pid -> start time: none when it joined.

    Raises:
        ConfigError: there is no Ray at ``address``.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (os.getcwd(), os.environ.get("PYTHONPATH", "")) if part)
    common: dict[str, Any] = {"namespace": app, "logging_level": "error", "log_to_driver": True}
    if address is not None:
        _join(address, common)
        actor_log.take_over(as_json=json_log)
        return {}
    before = _children()
    ray.init(
        address="local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        object_store_memory=OBJECT_STORE_BYTES,
        **common,
    )
    actor_log.take_over(as_json=json_log)
    return {pid: started for pid, started in _children().items() if pid not in before}


def shut_down(roots: dict[int, float]) -> None:
    """Leave Ray. Of a local one, what :func:`start` returned, nothing is left, not even a frozen worker or a slow agent."""
    everything = with_descendants(roots)
    ray.shutdown()
    end_processes(everything, END_GRACE_S)


def _children() -> dict[int, float]:
    return {child.pid: start_time_of(child.pid) for child in psutil.Process().children()}


def connect(app: str, address: str) -> None:
    """Join the Ray of a running app, to ask it something.

    Raises:
        ConfigError: there is none at ``address``.
    """
    _join(address, {"namespace": app, "logging_level": "error", "log_to_driver": False})


def _join(address: str, options: dict[str, Any]) -> None:
    _check_reachable(address)
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot reach Ray at {address}: {error}") from error


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes to reach a HOST:PORT, and logs each attempt. Other addresses ("auto") fail at once."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_DEADLINE_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot reach Ray at {address}: {error}") from error
