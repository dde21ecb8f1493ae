"""What the benchmarks of models share: a backend in this process, loaded and warm on the device that was asked for, and a table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.runtime.process import limit_threads, load_class

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend, and how."""

    device: str = "cpu"
    backend: str = ""
    model: str = ""
    threads: int = 0
    max_batch: int = 0


def configured(kind: str, choice: Choice, config: Config | None = None) -> Config:
    """``config`` with the section ``kind`` as ``choice`` has it; what is empty or 0 stays as it is."""
    config = config or Config()
    wanted = {"backend": choice.backend, "model": choice.model, "threads": choice.threads, "max_batch": choice.max_batch}
    wanted = {key: value for key, value in wanted.items() if value} | {"num_gpus": float(choice.device == "cuda")}
    return msgspec.structs.replace(config, **{kind: msgspec.structs.replace(getattr(config, kind), **wanted)})


@contextlib.asynccontextmanager
async def loaded(kind: str, config: Config) -> AsyncIterator[Any]:
    """The backend of ``kind`` that ``config`` names, as an engine would have it; closed at the end.

    Raises:
        ModelMissingError: its model is not prepared.
        ConfigError: there is no such device here.
    """
    section = getattr(config, kind)
    limit_threads(section.threads)
    backend = load_class(backend_class(kind, section.backend), f"{kind}.backend")(config)
    await asyncio.to_thread(backend.load)
    try:
        await asyncio.to_thread(backend.warm_up)
        yield backend
    finally:
        await asyncio.to_thread(backend.close)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows as they are recorded, all with the same keys."""
    shown = Table(*(key.replace("_", " ") for key in rows[0]), title=title)
    for row in rows:
        shown.add_row(
            *("-" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value) for value in row.values())
        )
    return shown
