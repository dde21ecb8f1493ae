"""What an actor's process does about itself: its log, its niceness, its threads, and the class that it is told to host.

Ray is imported only to leave an actor: a stage process must stay small.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys

from rtvi_actors.errors import ConfigError

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


def log_to_stderr(name: str, level: str) -> None:
    """Send this package's log to stderr, each line with the actor's ``name``. Repeating it changes the level."""
    package = logging.getLogger("rtvi_actors")
    package.setLevel(level.upper())
    package.propagate = False
    for handler in list(package.handlers):
        package.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s"))
    package.addHandler(handler)


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
