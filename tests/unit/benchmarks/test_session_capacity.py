"""The figures of the capacity benchmark, and the configuration that it starts."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rtvi_actors.config import Config

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("session_capacity", FOLDER / "session_capacity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "session_capacity", module)
    spec.loader.exec_module(module)
    return module


def test_a_lost_turn_or_a_late_one_is_too_much(capacity: ModuleType) -> None:
    fine = capacity.Load(2, asked=4, voice_to_voice_ms=[500.0, 600.0, 700.0, 1_900.0]).figures()
    assert (fine["lost"], fine["p50_ms"], fine["p95_ms"]) == (0, 600, 1_900)
    assert capacity.within(fine, 2_000)
    assert not capacity.within(fine, 1_800)
    assert not capacity.within(capacity.Load(2, asked=5, voice_to_voice_ms=[500.0] * 4).figures(), 2_000)
    assert not capacity.within(capacity.Load(2, asked=4, refused=1, voice_to_voice_ms=[500.0] * 4).figures(), 2_000)
    assert not capacity.within(capacity.Load(2, asked=4).figures(), 2_000)


@pytest.mark.parametrize(("own", "groups", "each"), [(True, 12, 1), (False, 1, 16)])
def test_its_configuration_has_room_for_all(capacity: ModuleType, tmp_path: Path, own: bool, groups: int, each: int) -> None:
    options = argparse.Namespace(config=None, own=own, sessions=[1, 12])
    config = Config.load(capacity.configuration(options, tmp_path))
    assert config.llm.max_tokens == 24
    assert config.scheduler.max_sessions == 12
    assert (config.scheduler.warm_groups, config.scheduler.sessions_per_group) == (groups, each)
