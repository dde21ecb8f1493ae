"""What the cost benchmark takes off, and what its microphones hear."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from rtvi_actors.testing.recordings import AUDIBLE_RMS, Recording, rms

pytestmark = pytest.mark.unit


@pytest.fixture
def cost(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("session_cost")


def test_the_idle_app_is_taken_off_and_ray_does_not_count(cost: ModuleType) -> None:
    idle = {"edge": 1.0, "speaking": 0.5, "engines": 2.0, "ray": 8.0}
    row = cost.per_session({"edge": 5.0, "speaking": 2.5, "engines": 2.0, "ray": 12.0}, idle, 4)
    assert (row["all"], row["edge"], row["speaking"], row["engines"], row["ray"]) == (1.5, 1.0, 0.5, 0.0, 1.0)


def test_cpu_time_is_read_of_the_process_and_what_it_started(cost: ModuleType) -> None:
    before = cost.cpu_s(os.getpid())
    while cost.cpu_s(os.getpid())["ray"] <= before["ray"]:
        sum(range(100_000))
    assert set(before) == {"ray"}, "none of them is an actor of ours"


def test_the_room_is_quiet_and_without_clicks(cost: ModuleType) -> None:
    pcm = cost.noise()
    samples = np.frombuffer(pcm, dtype="<i2")
    assert len(samples) == cost.SOUND_S * cost.RATE_HZ
    assert 1.0 < rms(pcm) < AUDIBLE_RMS
    assert np.abs(np.diff(samples.astype(int))).max() < 20 * rms(pcm)


def test_each_session_speaks_in_every_period_and_begins_at_its_time(cost: ModuleType) -> None:
    clips = [Recording(str(number), "", bytes([number]) * 2 * 16_000) for number in (1, 2, 3)]
    period_bytes = int(cost.PERIOD_S * cost.RATE_HZ) * 2
    said = cost.speech(clips, 1, 2)
    assert said[: period_bytes // 2] == bytes(period_bytes // 2)
    assert [said[period_bytes // 2 + place * period_bytes] for place in range(4)] == [2, 3, 1, 2]
