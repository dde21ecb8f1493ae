"""The text that Prometheus gets, read back by its own parser."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rtvi_actors.observe.figures import SIZES, Distribution, RoleFigures
from rtvi_actors.observe.latency import SEGMENTS, TurnRecord
from rtvi_actors.observe.metrics import Metrics
from rtvi_actors.rtvi.events import Failure, Interrupted, TurnFigures

pytestmark = pytest.mark.unit

EDGE = {"sessions": 2, "busy_turns": 1, "admitted": 5, "refused": 3, "failed": 1}
FIGURES = TurnFigures(
    1,
    700.0,
    dict.fromkeys(SEGMENTS, 700 / 6),
    4.0,
    [("stt", "ttfb_ms", 120.0), ("llm", "processing_ms", 300.0), ("llm", "prompt_tokens", 40.0), ("tts", "characters", 12.0)],
)


def read(metrics: Metrics, sessions: Any = (), app: Any = None) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of the labels' names) -> value."""
    text = b"".join(metrics.pages(EDGE, sessions, app)).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family is there twice"
    return {
        (sample.name.removeprefix("rtvi_actors_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_an_edge_that_did_nothing_yet_has_its_families_at_zero() -> None:
    values = read(Metrics())
    assert values["sessions",] == 2
    assert values["sessions_admitted_total",] == 5
    assert values["sessions_refused_total",] == 3
    assert values["turns_total", "speech"] == 0
    assert values["voice_to_voice_seconds_count",] == 0
    assert [values["segment_seconds_count", segment] for segment in SEGMENTS] == [0] * 6
    assert values["service_ttfb_seconds_count", "tts"] == 0
    assert values["playout_underruns_total",] == 0
    assert values["scheduler_up",] == 0


def test_turns_are_counted_with_their_segments_in_seconds() -> None:
    metrics = Metrics()
    metrics.event(FIGURES)
    metrics.event(TurnFigures(2, 0.0, {}, 0.0, [("tts", "processing_ms", 50.0)]))
    metrics.event(Interrupted(1))
    metrics.event(Failure("x", fatal=False))
    metrics.turn_over(TurnRecord(1, "speech", 0, {}, 0.0))
    metrics.error("turn")
    values = read(metrics)
    assert values["voice_to_voice_seconds_count",] == 1
    assert values["voice_to_voice_seconds_sum",] == pytest.approx(0.7)
    assert sum(values["segment_seconds_sum", segment] for segment in SEGMENTS) == pytest.approx(0.7)
    assert values["own_share_seconds_sum",] == pytest.approx(0.004)
    assert values["service_ttfb_seconds_sum", "stt"] == pytest.approx(0.12)
    assert values["service_processing_seconds_count", "llm"] == 1
    assert values["service_processing_seconds_count", "tts"] == 1
    assert values["llm_tokens_total", "prompt"] == 40
    assert values["tts_characters_total",] == 12
    assert values["interruptions_total",] == 1
    assert values["turns_total", "speech"] == 1
    assert values["errors_total", "turn"] == 1


def test_what_sessions_counted_stays_when_they_are_over() -> None:
    metrics = Metrics()
    counts = {"underruns": 2, "gap_ms": 500, "dropped_messages": 1, "dropped_audio_windows": 10}
    metrics.session_over("client-gone", counts)
    values = read(metrics, sessions=[counts, counts])
    assert values["playout_underruns_total",] == 6
    assert values["playout_gap_seconds_total",] == pytest.approx(1.5)
    assert values["client_audio_dropped_seconds_total",] == pytest.approx(0.96)
    assert values["sessions_ended_total", "client-gone"] == 1


def test_the_app_s_processes_are_told_by_role() -> None:
    batches = Distribution(SIZES)
    for size in (1, 2, 2, 40):
        batches.add(size)
    roles = RoleFigures()
    roles.report("app/stt/7", "stt", {"cpu_s": 1.5, "memory_bytes": 5e7, "loop_lag_s": 0.2, "processes": 1, "links": 4})
    roles.report("app/stt/8", "stt", {"cpu_s": 0.5, "memory_bytes": 5e7, "loop_lag_s": 0.1, "processes": 1, "links": 4})
    roles.report("app/engine/llm/0", "engine/llm", {"engine_done": 3, "engine_failed": 1, "engine_batch": batches.figure()})
    values = read(Metrics(), app=roles.by_role())
    assert values["scheduler_up",] == 1
    assert values["processes", "stt"] == 2
    assert values["process_cpu_seconds_total", "stt"] == 2.0
    assert values["process_resident_memory_bytes", "stt"] == 1e8
    assert values["loop_lag_seconds", "stt"] == 0.2
    assert values["engine_requests_total", "done", "engine/llm"] == 3
    assert values["engine_requests_total", "failed", "engine/llm"] == 1
    assert values["engine_batch_size_bucket", "1", "engine/llm"] == 1
    assert values["engine_batch_size_bucket", "2", "engine/llm"] == 3
    assert values["engine_batch_size_bucket", "+Inf", "engine/llm"] == 4
    assert values["engine_batch_size_sum", "engine/llm"] == 45


def test_unknown_words_make_no_new_series() -> None:
    metrics = Metrics()
    before = set(read(metrics))
    for number in range(50):
        metrics.error(f"scope{number}")
        metrics.turn_over(TurnRecord(number, f"source{number}", 0, {}, 0.0))
        metrics.event(TurnFigures(number, 0.0, {}, 0.0, [(f"service{number}", "ttfb_ms", 1.0)]))
    new = {labels[1:] for labels in set(read(metrics)) - before}
    assert new
    assert all("other" in labels for labels in new)
