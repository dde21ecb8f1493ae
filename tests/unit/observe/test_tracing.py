"""Spans of a session, collected in memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rtvi_actors.config import Config, Observe
from rtvi_actors.errors import ConfigError
from rtvi_actors.observe import tracing
from rtvi_actors.observe.latency import SEGMENTS, TurnRecord
from rtvi_actors.observe.observer import Observer
from rtvi_actors.observe.tracing import Tracing
from rtvi_actors.rtvi.events import AnswerText, Interrupted, UserText, UserTyped

pytestmark = pytest.mark.unit

MS = 1_000_000


class Clock:
    """Two clocks that a test moves together."""

    def __init__(self) -> None:
        self.now_ns = 50_000 * MS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns + 1_700_000_000_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    session_trace = tracing.SessionTrace

    def at_our_time(*args: Any, **options: Any) -> tracing.SessionTrace:
        return session_trace(*args, **options, wall_ns=clock.time_ns, monotonic_ns=clock.monotonic_ns)

    monkeypatch.setattr(tracing, "SessionTrace", at_our_time)
    return clock


def record(clock: Clock, turn: int = 1, source: str = "speech") -> TurnRecord:
    """A turn that began 3 s ago, with segments of 100 ms that ended 1 s ago."""
    first = clock.now_ns - 1_600 * MS
    segments = {name: (first + place * 100 * MS, first + (place + 1) * 100 * MS) for place, name in enumerate(SEGMENTS)}
    return TurnRecord(turn, source, clock.now_ns - 3_000 * MS, segments, 7.5)


def spans_of(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_session_turn_and_segments_lie_in_each_other(clock: Clock) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(Observe(tracing="console"), "shop", exporter)
    session = traces.session("s1", "apps:Shop")
    clock.now_ns += 10_000 * MS
    session.event(Interrupted(1))
    session.event(UserText(1, "a secret", final=True))
    session.turn_over(record(clock))
    clock.now_ns += 5_000 * MS
    session.session_over("client-gone")
    traces.close()
    spans = spans_of(exporter)
    assert set(spans) == {"session", "turn", *SEGMENTS}
    whole, turn = spans["session"], spans["turn"]
    assert turn.parent.span_id == whole.context.span_id
    assert whole.parent is None
    assert {spans[name].parent.span_id for name in SEGMENTS} == {turn.context.span_id}
    assert len({span.context.trace_id for span in spans.values()}) == 1
    assert whole.end_time - whole.start_time == 15_000 * MS
    assert turn.end_time - turn.start_time == 3_000 * MS
    assert whole.start_time == Clock().time_ns()
    ends = [spans[name].end_time for name in SEGMENTS]
    assert ends[:-1] == [spans[name].start_time for name in SEGMENTS[1:]], "no gaps"
    assert turn.attributes == {
        "rtvi.turn": 1,
        "rtvi.source": "speech",
        "rtvi.interrupted": True,
        "rtvi.voice_to_voice_ms": 600.0,
        "rtvi.own_share_ms": 7.5,
    }
    assert dict(whole.attributes) == {"session.id": "s1", "rtvi.bot": "apps:Shop", "rtvi.ended": "client-gone", "rtvi.turns": 1}
    assert whole.resource.attributes["service.name"] == "shop"


def test_sessions_do_not_mix(clock: Clock) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(Observe(tracing="console"), "shop", exporter)
    sessions = [traces.session(f"s{number}", "b") for number in range(100)]
    for number, session in enumerate(sessions):
        session.turn_over(record(clock, turn=number + 1))
    for session in reversed(sessions):
        session.session_over("idle")
    traces.close()
    by_trace: dict[int, list[Any]] = {}
    for span in exporter.get_finished_spans():
        by_trace.setdefault(span.context.trace_id, []).append(span)
    assert len(by_trace) == 100
    for spans in by_trace.values():
        [whole] = [span for span in spans if span.name == "session"]
        [turn] = [span for span in spans if span.name == "turn"]
        assert whole.attributes["session.id"] == f"s{turn.attributes['rtvi.turn'] - 1}"
        assert len(spans) == 8


def test_texts_are_there_only_when_asked_for(clock: Clock) -> None:
    exporter = InMemorySpanExporter()
    traces = Tracing(Observe(tracing="console", trace_text=True), "shop", exporter)
    session = traces.session("s1", "b")
    for event in (UserText(1, "no", final=False), UserText(1, "hello", final=True), AnswerText(1, "Hi "), AnswerText(1, "there.")):
        session.event(event)
    session.turn_over(record(clock))
    session.event(UserTyped("typed", "m1"))
    session.event(AnswerText(2, "x" * 10_000))
    session.turn_over(TurnRecord(2, "text", clock.now_ns, {}, 0.0))
    session.turn_over(TurnRecord(3, "say", clock.now_ns, {}, 0.0))
    session.session_over("idle")
    traces.close()
    spoken, typed, said = [span.attributes for span in exporter.get_finished_spans() if span.name == "turn"]
    assert (spoken["rtvi.user_text"], spoken["rtvi.bot_text"]) == ("hello", "Hi there.")
    assert (typed["rtvi.user_text"], len(typed["rtvi.bot_text"])) == ("typed", tracing.MAX_TEXT_CHARS)
    assert not {"rtvi.user_text", "rtvi.bot_text", "rtvi.voice_to_voice_ms"} & set(said)


def test_the_console_exporter_writes_a_line_of_json_per_span(capsys: pytest.CaptureFixture[str]) -> None:
    traces = Tracing(Observe(tracing="console"), "shop")
    traces.session("s1", "b").session_over("idle")
    traces.close()
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert json.loads(line)["attributes"]["session.id"] == "s1"
    assert shown.out == ""


def test_a_missing_package_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracing.NEEDED, "otlp", "no_such.package")
    with pytest.raises(
        ConfigError, match=r"observe.tracing = 'otlp': no_such.package is not installed; pip install 'rtvi_actors\[otel\]'"
    ):
        Observer(Config().replace(observe={"tracing": "otlp"}))


def test_opentelemetry_is_not_imported_when_it_is_off() -> None:
    code = """
import sys
from rtvi_actors.config import Config
from rtvi_actors.observe.observer import Observer
observer = Observer(Config())
observer.session("s1", "b").session_over("idle", {})
observer.close()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout == "[]\n"


def test_spans_reach_a_collector_over_http() -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        serving = threading.Thread(target=collector.serve_forever)
        serving.start()
        try:
            endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
            traces = Tracing(Observe(tracing="otlp", otlp_endpoint=endpoint), "shop")
            traces.session("s1", "apps:Shop").session_over("idle")
            traces.close()
        finally:
            collector.shutdown()
            serving.join()
    [(path, body)] = received
    assert path == "/v1/traces"
    spans = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    [span] = spans.resource_spans[0].scope_spans[0].spans
    assert span.name == "session"
