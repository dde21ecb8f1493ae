"""What the actors log, on the stderr of ``serve``: a line as the actor wrote it, which names it.

Ray's own way prints them with a prefix of its own, and beside them long warnings of its node's daemon about each process that was
ended without asking Ray first, all on stdout, where only the line "ready ..." belongs. Ray keeps both in its session's log folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

_DAEMONS = ("raylet", "autoscaler")


def take_over(*, as_json: bool = False) -> None:
    """Print the actors' lines from now on, instead of Ray. Call it after ``ray.init``, which sets its own way up.

    ``as_json``: every line is JSON, also those that are not the actors' own: what libraries print, and crashes.

    Neither is public API of Ray, whose version is pinned; where they are missing, Ray's way stays.
    """
    try:
        from ray._private import worker
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher
    except ImportError:
        return
    # Under Ray's own name, so that ray.shutdown() takes it away.
    dispatcher.remove_handler("ray_print_logs")
    dispatcher.add_handler("ray_print_logs", partial(show, render=_as_json) if as_json else show)
    # The daemons' warnings come by another way, which this switch closes: it is there for breakpoints.
    worker._worker_logs_enabled = False


def show(batch: dict[str, Any], render: Callable[[str, dict[str, Any]], str] = lambda line, _: line) -> None:
    """Print one batch of lines of one process, as Ray's log monitor gives it."""
    if batch.get("pid") in _DAEMONS:
        return
    for line in batch.get("lines", []):
        print(render(line, batch), file=sys.stderr, flush=True)


def _as_json(line: str, batch: dict[str, Any]) -> str:
    """``line`` if it is a JSON object, else one that holds it."""
    if line.startswith("{"):
        try:
            msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            pass
        else:
            return line
    actor = batch.get("actor_name") or ""
    return msgspec.json.encode({"event": line, "actor": str(actor), "pid": str(batch.get("pid", "")), "level": "info"}).decode()
