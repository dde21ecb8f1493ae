"""The user's audio: windows of 512 samples, whatever the pieces, and a bound on what waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.edge.microphone import BATCH_WINDOWS, MAX_WAITING_WINDOWS, Microphone
from rtvi_actors.edge.wire import AudioIn
from rtvi_actors.frames.codec import encode
from rtvi_actors.observe.latency import ArrivalTimes
from rtvi_actors.runtime.mailbox import Outbox

pytestmark = pytest.mark.unit


def everything(microphone: Microphone) -> list[tuple[int, bytes]]:
    windows = []
    while batch := microphone.pull():
        assert len(batch) <= BATCH_WINDOWS
        windows += [(window.first_sample, window.pcm) for window in batch]
    return windows


@given(st.lists(st.integers(0, 3_000), max_size=12))
def test_any_cut_gives_the_same_windows(pieces: list[int]) -> None:
    microphone = Microphone(ArrivalTimes())
    pcm = bytes(place * 7 % 251 for place in range(2 * sum(pieces)))
    start = 0
    for samples in pieces:
        microphone.push(AudioIn(pcm[start : start + 2 * samples], 16_000, 1), 0)
        start += 2 * samples
    whole = len(pcm) // 1_024
    assert everything(microphone) == [(512 * place, pcm[1_024 * place : 1_024 * (place + 1)]) for place in range(whole)]
    assert microphone.dropped_windows == 0


def test_beyond_the_bound_the_oldest_is_dropped_and_the_count_goes_on() -> None:
    microphone = Microphone(ArrivalTimes())
    for _ in range(MAX_WAITING_WINDOWS + 5):
        microphone.push(AudioIn(bytes(1_024), 16_000, 1), 0)
    assert microphone.dropped_windows == 5
    assert microphone.waiting_windows == MAX_WAITING_WINDOWS
    assert [first for first, _ in everything(microphone)][:2] == [5 * 512, 6 * 512]


def test_a_link_that_nobody_reads_keeps_a_burst_of_ten_seconds() -> None:
    microphone, waiting = Microphone(ArrivalTimes()), Outbox("data")
    for _ in range(10 * 62):
        microphone.push(AudioIn(bytes(512), 16_000, 1), 0)
    while batch := microphone.pull():
        for window in batch:
            assert waiting.push("s1", encode(window, 0), len(window.pcm) // 2) is None
    assert (microphone.dropped_windows, waiting.dropped_samples) == (0, 0)
    assert len(waiting) == 10 * 62 // 2


def test_arrival_times_are_those_of_the_piece_that_brought_the_sample() -> None:
    arrivals = ArrivalTimes()
    microphone = Microphone(arrivals)
    microphone.push(AudioIn(bytes(600), 16_000, 1), 1_000)
    microphone.push(AudioIn(bytes(600), 16_000, 1), 2_000)
    assert [arrivals.at(sample) for sample in (1, 300, 301, 600, 601)] == [1_000, 1_000, 2_000, 2_000, None]


def test_a_change_of_rate_in_mid_stream_loses_no_more_than_the_resampler_rounds() -> None:
    microphone = Microphone(ArrivalTimes())
    for rate_hz, channels in [(48_000, 2), (16_000, 1), (8_000, 1), (48_000, 1)]:
        for _ in range(10):
            microphone.push(AudioIn(bytes(rate_hz // 10 * 2 * channels), rate_hz, channels), 0)
    microphone.push(AudioIn(bytes(3_200), 16_000, 1), 0)
    windows = everything(microphone)
    assert [first for first, _ in windows] == [512 * place for place in range(len(windows))]
    expected = 4 * 16_000 + 1_600
    assert abs(512 * len(windows) - expected) <= 512 + 16
