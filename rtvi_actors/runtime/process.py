"""What an actor's process does about itself: its log, its niceness, its threads, and the class that it is told to host.

Ray is imported only to leave an actor: a stage process must stay small.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.observe import log
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime import loop_watch
from rtvi_actors.runtime.supervise import start_time_of

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def load_class(spec: str, what: str) -> type:
    """The class that ``spec`` (``module:Class``) names. ``what`` says in errors what it was wanted for.

    Raises:
        ConfigError: not of that form, no such module or class, or the module cannot be imported.
    """
    module_name, colon, class_name = spec.partition(":")
    if not colon or not module_name or not class_name:
        raise ConfigError(f"{what} = {spec!r}: must be module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{what} = {spec!r}: cannot import {module_name}: {error}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigError(f"{what} = {spec!r}: {module_name} has no class {class_name}")
    return found


def set_up(name: str, config: Config) -> None:
    """What every actor does first: its log goes to stderr, and loops that stand still are noticed."""
    log.set_up(name, config.app.log_level, config.app.log_format)
    loop_watch.set_limit(config.observe.lag_ms)


def identity() -> dict[str, Any]:
    """``{pid, started_at}``: what a supervisor on this node knows this process by."""
    pid = os.getpid()
    return {"pid": pid, "started_at": start_time_of(pid)}


def usage() -> Figures:
    """What this process takes of the machine."""
    times = os.times()
    with open("/proc/self/statm", encoding="ascii") as statm:
        resident_pages = int(statm.read().split()[1])
    return {
        "processes": 1,
        "memory_bytes": resident_pages * os.sysconf("SC_PAGE_SIZE"),
        "cpu_s": times.user + times.system,
    }


def limit_threads(threads: int) -> None:
    """Tell the libraries that are imported after this to use ``threads`` threads. Ray sets these variables for its workers."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)


def set_niceness(niceness: int) -> int:
    """Set the niceness of all threads of this process; returns what it is now.

    Linux keeps it per thread. Lowering it needs a privilege: without it, it stays as it was.
    """
    for thread in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
        except ProcessLookupError:
            continue  # that thread has just ended
        except PermissionError:
            logging.getLogger(__name__).warning("niceness %d is not permitted", niceness)
            break
    return os.getpriority(os.PRIO_PROCESS, 0)


def leave_actor() -> None:
    """End this Ray actor's process once the calls that run have returned. Does not return.

    The caller of the actor's method that calls this sees ``ActorDiedError`` with an intended exit.
    """
    import ray  # already there in an actor, and wanted nowhere else

    ray.actor.exit_actor()
