from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.tts.trim import SilenceTrimmer

pytestmark = pytest.mark.unit

RATE_HZ = 16_000
MS = RATE_HZ // 1_000


def silence(ms: int) -> np.ndarray:
    return np.zeros(ms * MS, dtype=np.float32)


def tone(ms: int) -> np.ndarray:
    return np.full(ms * MS, 0.5, dtype=np.float32)


def trimmed(samples: np.ndarray, cuts: list[int], trailing_ms: int = 100) -> np.ndarray:
    trimmer = SilenceTrimmer(RATE_HZ, trailing_ms)
    parts = [trimmer.push(part) for part in np.split(samples, sorted(cuts))]
    return np.concatenate([*parts, trimmer.finish()])


def test_shortens_both_ends_and_keeps_the_pause_inside() -> None:
    samples = np.concatenate([silence(100), tone(50), silence(300), tone(50), silence(400)])
    assert len(trimmed(samples, [])) == (20 + 50 + 300 + 50 + 100) * MS


@pytest.mark.parametrize("cuts", [[], [30 * MS, 90 * MS], [7, 70 * MS, 103 * MS]])
def test_tells_how_much_it_cut_off_at_the_beginning(cuts: list[int]) -> None:
    trimmer = SilenceTrimmer(RATE_HZ, 100)
    for part in np.split(np.concatenate([silence(100), tone(50), silence(300), tone(50)]), cuts):
        trimmer.push(part)
    assert trimmer.cut_samples == 80 * MS


def test_shorter_silence_stays_as_it_is() -> None:
    samples = np.concatenate([silence(10), tone(50), silence(30)])
    assert len(trimmed(samples, [])) == len(samples)


def test_silence_alone_gives_nothing() -> None:
    assert len(trimmed(silence(500), [100, 4_000])) == 0


def test_sound_goes_out_at_once() -> None:
    trimmer = SilenceTrimmer(RATE_HZ, 100)
    assert len(trimmer.push(silence(100))) == 0
    assert len(trimmer.push(tone(50))) == (20 + 50) * MS
    assert len(trimmer.push(silence(60))) == 0
    assert len(trimmer.push(tone(5))) == 65 * MS


@given(st.lists(st.integers(0, 900 * MS), max_size=12))
def test_the_cut_does_not_matter(cuts: list[int]) -> None:
    samples = np.concatenate([silence(103), tone(52), silence(301), tone(51), silence(393)])
    whole = trimmed(samples, [])
    parts = trimmed(samples, cuts)
    assert np.array_equal(whole, parts)
