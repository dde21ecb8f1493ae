"""What an edge tells Prometheus: of its conversations as they happen, and of all the app's processes as the scheduler knows them.

Labels are roles, segments, services, reasons: never a session, a group or a text, so the number of series is bounded.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from rtvi_actors.observe.figures import KINDS, Figures, Kind
from rtvi_actors.observe.latency import SEGMENTS, TurnRecord
from rtvi_actors.rtvi.events import Event, Interrupted, TurnFigures

PREFIX = "rtvi_actors_"
CONTENT_TYPE = CONTENT_TYPE_LATEST

TURN_S = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Bounds for a whole answer ..."""
PART_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0)
"""... and for a part of it, which may be our own few milliseconds."""

SERVICES = ("stt", "llm", "tts")
SCOPES = ("frame", "turn", "session", "cluster")
SOURCES = ("speech", "text", "say", "tool")

COUNTED = {
    "underruns": ("playout_underruns", "How often a client ran dry in the middle of a turn.", 1.0),
    "gap_ms": ("playout_gap_seconds", "For how long altogether.", 1e-3),
    "dropped_messages": ("client_messages_dropped", "Messages of clients over their limit.", 1.0),
    "dropped_audio_windows": ("client_audio_dropped_seconds", "User audio that the edge could not hand on in time.", 0.032),
}
"""What a session counts itself: its name there, the metric, what it means, its unit."""


class Metrics:
    """The metrics of one edge. All methods are for its event loop; none waits."""

    def __init__(self) -> None:
        # A second series beside each, that only OpenMetrics has a use for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=False)
        self._over: Counts[str] = Counts()
        """What the sessions that are over had counted."""
        self._ended = self._counter("sessions_ended", "Sessions that are over, and why.", "reason")
        self._turns = self._counter("turns", "Turns with an answer, when they are over.", "source")
        self._interruptions = self._counter("interruptions", "Answers that the user cut off.")
        self._errors = self._counter("errors", "Errors of stages, by what they end.", "scope")
        self._tokens = self._counter("llm_tokens", "Tokens of the language model.", "kind")
        self._characters = self._counter("tts_characters", "Characters that the voice has spoken.")
        voice_to_voice = "From the user's last sound to the bot's first: the sum of its segments."
        self._total_s = self._histogram("voice_to_voice_seconds", voice_to_voice, TURN_S)
        self._segment_s = self._histogram("segment_seconds", "Segments of voice to voice.", PART_S, "segment")
        own_share = "Voice to voice less the endpointing wait and the models' work."
        self._own_share_s = self._histogram("own_share_seconds", own_share, PART_S)
        self._ttfb_s = self._histogram("service_ttfb_seconds", "Until a model's first output.", PART_S, "service")
        self._processing_s = self._histogram("service_processing_seconds", "A model's whole answer.", TURN_S, "service")
        # A rate of nothing is 0, not an absence of data.
        for source in SOURCES:
            self._turns.labels(source)
        for segment in SEGMENTS:
            self._segment_s.labels(segment)
        for service in SERVICES:
            self._ttfb_s.labels(service)
            self._processing_s.labels(service)
        for scope in SCOPES:
            self._errors.labels(scope)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=bounds, registry=self._registry)

    # -------------------------------------------------------------------------------------------------------- as it happens

    def event(self, event: Event) -> None:
        """What happened in a conversation."""
        if isinstance(event, Interrupted):
            self._interruptions.inc()
        elif isinstance(event, TurnFigures):
            self._figures(event)

    def _figures(self, figures: TurnFigures) -> None:
        if figures.segments_ms:
            self._total_s.observe(figures.total_ms / 1_000)
            self._own_share_s.observe(figures.own_share_ms / 1_000)
        for segment, value_ms in figures.segments_ms.items():
            self._segment_s.labels(segment).observe(value_ms / 1_000)
        for service, name, value in figures.services:
            of = _known(service, SERVICES)
            match name:
                case "ttfb_ms":
                    self._ttfb_s.labels(of).observe(value / 1_000)
                case "processing_ms":
                    self._processing_s.labels(of).observe(value / 1_000)
                case "prompt_tokens" | "completion_tokens":
                    self._tokens.labels(name.removesuffix("_tokens")).inc(value)
                case "characters":
                    self._characters.inc(value)

    def error(self, scope: str) -> None:
        """A stage reported an error."""
        self._errors.labels(_known(scope, SCOPES)).inc()

    def turn_over(self, record: TurnRecord) -> None:
        """An answer is over."""
        self._turns.labels(_known(record.source, SOURCES)).inc()

    def session_over(self, reason: str, counted: Mapping[str, int]) -> None:
        """A session is over, and what it had counted. ``reason`` is one of a few words."""
        self._ended.labels(reason).inc()
        self._over.update(counted)

    # ------------------------------------------------------------------------------------------------------- when it is read

    def pages(
        self, edge: Mapping[str, int], sessions: Iterable[Mapping[str, int]], app: Mapping[str, Figures] | None
    ) -> Iterator[bytes]:
        """The text for Prometheus, family by family: writing all of it takes milliseconds, in which audio is due.

        Args:
            edge: ``Sessions.stats()``.
            sessions: what the sessions of now count.
            app: role -> figures; None when the scheduler does not answer.
        """
        for family in chain(self._registry.collect(), self._of_edge(edge, sessions), _of_app(app)):
            yield generate_latest(_One(family))

    def _of_edge(self, edge: Mapping[str, int], sessions: Iterable[Mapping[str, int]]) -> Iterator[Metric]:
        yield GaugeMetricFamily(PREFIX + "sessions", "Sessions now.", edge["sessions"])
        yield GaugeMetricFamily(PREFIX + "sessions_busy", "Sessions in which somebody speaks or is waited for.", edge["busy_turns"])
        yield CounterMetricFamily(PREFIX + "sessions_admitted", "Sessions that began.", edge["admitted"])
        yield CounterMetricFamily(PREFIX + "sessions_refused", "Clients that got none.", edge["refused"])
        yield CounterMetricFamily(PREFIX + "sessions_failed", "Sessions that ended since they could not go on.", edge["failed"])
        counted = Counts(self._over)
        for session in sessions:
            counted.update(session)
        for name, (metric, text, unit) in COUNTED.items():
            yield CounterMetricFamily(PREFIX + metric, text, counted[name] * unit)


class _One:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client``."""
        return (self._family,)


def _of_app(app: Mapping[str, Figures] | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(PREFIX + "scheduler_up", "Whether the scheduler answered.", int(app is not None))
    families: dict[str, Metric] = {}
    for name, kind in KINDS.items():
        for role, figures in sorted((app or {}).items()):
            if name in figures:
                family = families.setdefault(kind.metric, _family(kind))
                _add(family, kind, role, figures[name])
    yield from families.values()


def _family(kind: Kind) -> Metric:
    labels = ("role", kind.label[0]) if kind.label else ("role",)
    name = PREFIX + kind.metric
    if kind.how == "counter":
        return CounterMetricFamily(name, kind.text, labels=labels)
    if kind.how == "histogram":
        return HistogramMetricFamily(name, kind.text, labels=labels)
    return GaugeMetricFamily(name, kind.text, labels=labels)


def _add(family: Metric, kind: Kind, role: str, value: float | list[float]) -> None:
    labels = (role, kind.label[1]) if kind.label else (role,)
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, list)
        *counts, total = value
        so_far = 0.0
        buckets = []
        for bound, count in zip((*map(str, kind.bounds), "+Inf"), counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        family.add_metric(labels, buckets, total)
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
        assert not isinstance(value, list)
        family.add_metric(labels, value)


def _known(value: str, known: tuple[str, ...]) -> str:
    """``value`` as a label: words that nobody thought of do not make new series."""
    return value if value in known else "other"
