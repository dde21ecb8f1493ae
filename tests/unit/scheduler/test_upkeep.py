"""The pauses before something is started again."""

from __future__ import annotations

import asyncio

import pytest

from rtvi_actors.errors import PlacementError
from rtvi_actors.scheduler.upkeep import Upkeep

pytestmark = pytest.mark.unit


async def test_what_found_no_room_is_tried_at_once_when_a_node_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtvi_actors.scheduler.upkeep.RESTART_PAUSE_S", 1_000.0)
    upkeep, tries, room = Upkeep(), 0, False

    async def start() -> None:
        nonlocal tries
        tries += 1
        if not room:
            raise PlacementError("no room")

    starting = asyncio.create_task(upkeep.again(start, "engine"))
    while not tries:
        await asyncio.sleep(0)
    room = True
    await asyncio.sleep(0)
    upkeep.try_now()
    await asyncio.wait_for(starting, 10)
    assert tries == 2


async def test_a_pause_ends_by_itself() -> None:
    await asyncio.wait_for(Upkeep().pause(0.001), 10)
