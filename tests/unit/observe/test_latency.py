from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.frames.types import (
    BotAudio,
    Cancel,
    Clause,
    Frame,
    LlmText,
    Metrics,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.observe.latency import MAX_ARRIVALS, MAX_TURNS, MILESTONES, SEGMENTS, ArrivalTimes, Latency, TurnClock

pytestmark = pytest.mark.unit

MS = 1_000_000


def arrivals(*entries: tuple[int, int]) -> ArrivalTimes:
    """(end of the samples, ms of their arrival)."""
    times = ArrivalTimes()
    before = 0
    for end, at_ms in entries:
        times.add(before, end - before, at_ms * MS)
        before = end
    return times


def test_a_sample_arrived_with_the_message_that_carried_it() -> None:
    times = arrivals((320, 20), (640, 45))
    assert [times.at(sample) for sample in (1, 320, 321, 640)] == [20 * MS, 20 * MS, 45 * MS, 45 * MS]
    assert times.at(641) is None


def test_arrivals_are_bounded_and_the_oldest_stands_for_all_before() -> None:
    times = arrivals(*((end, end) for end in range(1, 2 * MAX_ARRIVALS + 1)))
    assert times.at(2 * MAX_ARRIVALS) == 2 * MAX_ARRIVALS * MS
    assert times.at(3) == (MAX_ARRIVALS + 1) * MS


def spoken_turn(turn: int = 1, attempt: int = 1) -> list[Frame]:
    where = {"turn": turn, "attempt": attempt}
    return [
        TurnStarted(turn=turn, request="", source="speech", sent_ns=10 * MS),
        Transcript(text="Hi.", final=True, language="en", sent_ns=150 * MS, **where),
        LlmText(text="H", sent_ns=170 * MS, **where),
        TurnEnded(last_sample=320, sent_ns=300 * MS, **where),
        Clause(clause=0, text="Hello.", sent_ns=320 * MS, **where),
        BotAudio(clause=0, first_sample=0, pcm=b"", sent_ns=390 * MS, **where),
        BotAudio(clause=0, first_sample=960, pcm=b"", sent_ns=500 * MS, **where),
    ]


def test_the_segments_of_a_spoken_turn() -> None:
    latency = Latency(arrivals((320, 100)))
    for frame in spoken_turn():
        latency.handle(frame)
    figures = latency.first_sound(1, 395 * MS)
    assert figures is not None
    assert figures.segments_ms == {"endpointing": 200, "stt": 0, "llm": 0, "clause": 20, "tts": 70, "playout": 5}
    assert list(figures.segments_ms) == list(SEGMENTS)
    assert figures.total_ms == 295
    assert figures.own_share_ms == 95


def test_compute_counts_only_inside_its_segments() -> None:
    latency = Latency(arrivals((320, 100)))
    for frame in spoken_turn():
        latency.handle(frame)
    # stt worked during the endpointing wait, llm mostly, tts within its segment.
    for segment, value in {"stt": 40.0, "llm": 500.0, "tts": 60.0}.items():
        latency.handle(Metrics(turn=1, attempt=1, segment=segment, name="compute_ms", value=value))
    figures = latency.first_sound(1, 395 * MS)
    assert figures is not None
    assert figures.own_share_ms == 95 - 20 - 60
    assert figures.services == []


def test_figures_of_services_are_told_once() -> None:
    latency = Latency(ArrivalTimes())
    latency.handle(Metrics(turn=1, segment="stt", name="ttfb_ms", value=3.0))
    figures = latency.first_sound(1, MS)
    assert figures is not None
    assert figures.services == [("stt", "ttfb_ms", 3.0)]
    latency.handle(Metrics(turn=1, segment="tts", name="characters", value=9.0))
    late = latency.finish(1)
    assert late is not None
    assert (late.services, late.segments_ms) == ([("tts", "characters", 9.0)], {})
    assert latency.finish(1) is None


def test_a_resumed_attempt_leaves_no_milestone() -> None:
    latency = Latency(arrivals((320, 100), (640, 600)))
    first, second = spoken_turn(attempt=1), spoken_turn(attempt=2)
    for frame in first[:3]:
        latency.handle(frame)
    latency.handle(SpeechResumed(turn=1, attempt=1))
    latency.handle(first[4])
    for frame in second[1:3]:
        latency.handle(frame)
    latency.handle(TurnEnded(turn=1, attempt=2, last_sample=640, sent_ns=800 * MS))
    figures = latency.first_sound(1, 900 * MS)
    assert figures is not None
    assert figures.total_ms == 300
    assert figures.segments_ms["clause"] == 0


def test_typed_text_counts_from_its_turn_and_a_said_one_has_no_latency() -> None:
    latency = Latency(ArrivalTimes())
    latency.handle(TurnStarted(turn=1, request="r", source="text", sent_ns=100 * MS))
    latency.handle(LlmText(turn=1, attempt=1, text="a", sent_ns=130 * MS))
    typed = latency.first_sound(1, 150 * MS)
    latency.handle(TurnStarted(turn=2, request="r", source="say", sent_ns=100 * MS))
    said = latency.first_sound(2, 150 * MS)
    assert typed is not None
    assert said is not None
    assert (typed.segments_ms["endpointing"], typed.segments_ms["llm"], typed.total_ms) == (0, 30, 50)
    assert (said.segments_ms, said.total_ms) == ({}, 0)


def test_turns_are_bounded_and_cancelled_ones_take_nothing_more() -> None:
    latency = Latency(ArrivalTimes())
    for turn in range(1, MAX_TURNS + 2):
        latency.handle(Metrics(turn=turn, segment="stt", name="ttfb_ms", value=1.0))
    assert latency.finish(1) is None
    latency.handle(Cancel(fence=3, reason=""))
    latency.handle(Metrics(turn=2, segment="stt", name="ttfb_ms", value=2.0))
    cancelled = latency.finish(2)
    assert cancelled is not None
    assert cancelled.services == [("stt", "ttfb_ms", 1.0)]


def test_unknown_turns_and_frames_of_no_turn_give_nothing() -> None:
    latency = Latency(ArrivalTimes())
    latency.handle(Metrics(segment="stt", name="ttfb_ms", value=1.0))
    assert latency.first_sound(0, MS) is None
    assert latency.first_sound(1, MS) is None


@settings(deadline=None)
@given(
    marks=st.dictionaries(st.sampled_from(MILESTONES[1:-1]), st.integers(0, 10**10)),
    start=st.integers(0, 10**10),
    end=st.integers(0, 10**10),
    compute=st.dictionaries(st.sampled_from(["stt", "llm", "tts"]), st.floats(0, 10**4)),
)
def test_segments_add_up_whatever_came_early_late_or_never(
    marks: dict[str, int], start: int, end: int, compute: dict[str, float]
) -> None:
    clock = TurnClock(marks={**marks, MILESTONES[0]: start, MILESTONES[-1]: end}, compute_ms=compute)
    segments = clock.segments_ms()
    assert min(segments.values()) >= 0
    assert sum(segments.values()) == pytest.approx(max(0, end - start) / 1e6, abs=1)
    assert 0 <= clock.own_share_ms(segments) <= sum(segments.values()) - segments["endpointing"] + 1e-6
