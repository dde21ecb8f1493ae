"""The figures of a load, and the configuration of the server that meets it."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import SessionClosedError
from rtvi_actors.testing.recordings import Recording

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("load", FOLDER / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "load", module)
    spec.loader.exec_module(module)
    return module


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
