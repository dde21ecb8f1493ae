"""What the system tests share: configurations of fake models, an app with them, and ways to look at an app from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest


@pytest.fixture(scope="module")
def shared_app(start_app: Any, config_file: Any) -> Iterator[Any]:
    """An app with fake models and the dense profile: one group of stages that 16 sessions share. Not to be broken."""
    with start_app(config_file("dense.toml")) as running:
        yield running


@pytest.fixture
def ready() -> Callable[[str], Awaitable[bool]]:
    """``await ready(url)``: what GET /ready says; False as well if nobody answers."""

    async def ask(url: str) -> bool:
        async with httpx.AsyncClient(timeout=5) as web:
            try:
                return (await web.get(f"{url}/ready")).status_code == 200
            except httpx.HTTPError:
                return False

    return ask


@pytest.fixture
def actors() -> Callable[[Any, str], list[psutil.Process]]:
    """``actors(app, "SttActor")``: the processes of the app's actors of that class."""

    def find(app: Any, actor_class: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(app.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline()).strip()
                if title == f"ray::{actor_class}" or title.startswith(f"ray::{actor_class}."):
                    found.append(process)
        return found

    return find
