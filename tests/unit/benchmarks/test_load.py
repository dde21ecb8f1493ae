"""The figures of a load and of several together, and the configuration of the server that meets it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import SessionClosedError
from rtvi_actors.testing.recordings import Recording

pytestmark = pytest.mark.unit


@pytest.fixture
def load(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("load")


def test_a_lost_turn_or_a_late_one_is_too_much(load: ModuleType) -> None:
    fine = load.Load(2, asked=4, voice_to_voice_ms=[500.0, 600.0, 700.0, 1_900.0]).figures()
    assert (fine["lost"], fine["p50_ms"], fine["p95_ms"]) == (0, 600, 1_900)
    assert load.within(fine, 2_000)
    assert not load.within(fine, 1_800)
    assert not load.within(load.Load(2, asked=5, voice_to_voice_ms=[500.0] * 4).figures(), 2_000)
    assert not load.within(load.Load(2, asked=4, refused=1, voice_to_voice_ms=[500.0] * 4).figures(), 2_000)
    assert not load.within(load.Load(2, asked=4).figures(), 2_000)


@pytest.mark.parametrize(("own", "groups", "each"), [(True, 12, 1), (False, 1, 16)])
def test_its_configuration_has_room_for_all(load: ModuleType, tmp_path: Path, own: bool, groups: int, each: int) -> None:
    config = Config.load(load.configuration(tmp_path, None if own else load.SHARED, 12, own=own))
    assert config.llm.max_tokens == 24
    assert config.scheduler.max_sessions == 12
    assert (config.scheduler.warm_groups, config.scheduler.sessions_per_group) == (groups, each)


class EndedSession:
    """A session that is over before anything was said."""

    def say(self, pcm: bytes) -> None:
        raise SessionClosedError("the session is over")


async def test_a_session_that_ended_loses_what_it_should_have_been_asked(load: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PERIOD_S", 0.01)
    found = load.Load(1)
    now = time.monotonic()
    await load._talk(EndedSession(), [Recording("clip", "hello", b"")], now, now + 0.035, found)
    assert (found.figures()["asked"], found.figures()["lost"]) == (4, 4)
    assert found.problems == ["the session is over"] * 4


def test_of_several_runs_times_are_medians_and_counts_sums(program: Callable[[str], ModuleType]) -> None:
    def row(sessions: int, p50_ms: int | None, gaps: int, late_ms: int = 0) -> dict[str, Any]:
        counts = {"asked": 4, "lost": int(p50_ms is None), "refused": 0, "gaps_over_40_ms": gaps, "client_late_ms": late_ms}
        return {"sessions": sessions, "p50_ms": p50_ms, "p95_ms": p50_ms, **counts}

    runs = [[row(1, 500, 0), row(8, 900, 1)], [row(1, 700, 2, 5), row(8, None, 0)], [row(1, 600, 0), row(8, 800, 0)]]
    alone, eight = program("session_capacity").together(runs)
    assert alone == row(1, 600, 2, 5) | {"asked": 12}
    assert (eight["p50_ms"], eight["lost"], eight["gaps_over_40_ms"]) == (None, 1, 1), "a run without an answer has no median"
