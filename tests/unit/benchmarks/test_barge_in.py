"""What the barge-in benchmark counts: where speech begins, and when the bot was last heard."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from rtvi_actors.testing.recordings import Recording

pytestmark = pytest.mark.unit

MS = 1_000_000


@pytest.fixture
def barge_in(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("barge_in")


def noise(ms: int, loudness: float) -> bytes:
    rng = np.random.default_rng(1)
    return (rng.standard_normal(ms * 16) * loudness).astype("<i2").tobytes()


def test_speech_begins_where_it_rises_out_of_the_noise(barge_in: ModuleType) -> None:
    click = noise(10, 5_000)
    pcm = noise(200, 150) + click + noise(90, 150) + noise(1_000, 4_000) + noise(100, 150)
    assert barge_in.onset_ms(pcm) == 300
    assert barge_in.onset_ms(bytes(32_000)) == 0
    cut = barge_in.from_onset(Recording("clip", "", pcm))
    assert len(pcm) - len(cut) == (300 - barge_in.LEAD_IN_MS) * 32
    assert barge_in.onset_ms(cut) == barge_in.LEAD_IN_MS


def test_what_a_player_holds_is_still_heard(barge_in: ModuleType) -> None:
    piece = bytes(40 * 48)
    assert barge_in.last_heard_ns([]) == 0
    in_time = [(piece, 0), (piece, 0), (piece, 40 * MS)]
    assert barge_in.last_heard_ns(in_time) == 120 * MS
    assert barge_in.last_heard_ns([*in_time, (piece, 500 * MS)]) == 540 * MS


def test_figures_count_what_failed(barge_in: ModuleType) -> None:
    one = {"ms": 250.0, "told_ms": 600.0, "late_frames": 0, "words": 5}
    found = barge_in.figures([one, one | {"ms": 300.0, "late_frames": 2}], 1)
    assert (found["interruptions"], found["failed"], found["p50_ms"], found["max_ms"], found["late_frames"]) == (3, 1, 250, 300, 2)
