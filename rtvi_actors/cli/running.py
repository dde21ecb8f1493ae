"""Which apps run on this machine: one small file each, so that ``status`` and ``stop`` find them from another terminal."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import psutil
from msgspec import Struct, convert, to_builtins

from rtvi_actors.errors import ConfigError


class Running(Struct, frozen=True):
    """A running app. ``address``: its Ray. ``pid`` of ``serve``, with the start time that tells it from a later process."""

    app: str
    address: str
    url: str
    pid: int
    started_at: float


def remember(app: str, address: str, url: str) -> None:
    """Write the file of this process's app; only the user may read it."""
    path = _path(app)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    process = psutil.Process()
    record = Running(app=app, address=address, url=url, pid=process.pid, started_at=process.create_time())
    draft = path.with_suffix(f".{process.pid}")
    draft.write_text(json.dumps(to_builtins(record)), encoding="utf-8")
    draft.chmod(0o600)
    draft.replace(path)


def forget(app: str) -> None:
    """Remove it, if it is this process's."""
    found = find(app)
    if found is not None and found.pid == os.getpid():
        with contextlib.suppress(FileNotFoundError):
            _path(app).unlink()


def find(app: str) -> Running | None:
    """The app of that name, if its process is alive; a file left by a dead one is removed."""
    path = _path(app)
    try:
        record = convert(json.loads(path.read_text(encoding="utf-8")), Running)
    except (FileNotFoundError, ValueError):
        return None
    try:
        if abs(psutil.Process(record.pid).create_time() - record.started_at) < 1.0:
            return record
    except psutil.NoSuchProcess:
        pass
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return None


def expect(app: str) -> Running:
    """As :func:`find`.

    Raises:
        ConfigError: no such app runs here.
    """
    found = find(app)
    if found is None:
        raise ConfigError(f"no app {app!r} runs on this machine; start one with `rtvi-actors serve`, or give --address")
    return found


def _path(app: str) -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rtvi_actors" / "running" / f"{app}.json"
