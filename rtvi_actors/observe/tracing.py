"""OpenTelemetry spans: one per session, in it one per turn, in that one per segment of its latency. Off unless configured.

OpenTelemetry is imported only here, and only when it is on. Spans are made when a turn is over, from the times that its latency
is made of, so tracing adds nothing to a turn while it goes on.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

from rtvi_actors.config import Observe
from rtvi_actors.errors import ConfigError
from rtvi_actors.observe.latency import TurnRecord
from rtvi_actors.rtvi.events import AnswerText, Event, Interrupted, UserText, UserTyped

INSTALL = "pip install 'rtvi_actors[otel]'"
NEEDED = {"console": "opentelemetry.sdk", "otlp": "opentelemetry.exporter.otlp.proto.http"}

Scope = "rtvi_actors"
MAX_TEXT_CHARS = 4_096


def check(settings: Observe) -> None:
    """Find what would fail later.

    Raises:
        ConfigError: tracing is on, and its packages are not installed.
    """
    needed = NEEDED.get(settings.tracing)
    if needed is not None and not _installed(needed):
        raise ConfigError(f"observe.tracing = {settings.tracing!r}: {needed} is not installed; {INSTALL}")


class Tracing:
    """Makes the spans of one process. ``exporter``: an OpenTelemetry SpanExporter, instead of the configured one.

    Raises:
        ConfigError: as :func:`check`.
    """

    def __init__(self, settings: Observe, app: str, exporter: Any = None) -> None:
        check(settings)
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._with_text = settings.trace_text
        resource = Resource.create()
        if str(resource.attributes.get("service.name", "unknown_service")).startswith("unknown_service"):
            # OTEL_SERVICE_NAME, where it is set, stays.
            resource = resource.merge(Resource({"service.name": app}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # It exports from a thread of its own, and drops spans when too many wait.
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(settings)))
        self._tracer = self._provider.get_tracer(Scope)

    def session(self, session: str, bot: str) -> SessionTrace:
        """Begin the trace of a session."""
        return SessionTrace(self._tracer, session, bot, with_text=self._with_text)

    def close(self) -> None:
        """Export what is left. Waits for the network: call it in a thread."""
        self._provider.shutdown()


class SessionTrace:
    """The spans of one session. Times of frames are monotonic; ``wall_ns`` and ``monotonic_ns`` are read once, so all spans fit."""

    def __init__(
        self,
        tracer: Any,
        session: str,
        bot: str,
        *,
        with_text: bool,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        from opentelemetry import context, trace

        self._tracer = tracer
        self._now_ns = monotonic_ns
        self._offset_ns = wall_ns() - monotonic_ns()
        self._with_text = with_text
        self._texts: dict[int, list[tuple[str, str]]] = {}
        self._typed = ""
        self._interrupted: set[int] = set()
        self._turns = 0
        # An empty context: whatever else runs in this process is no parent of ours.
        self._span = tracer.start_span(
            "session",
            context=context.Context(),
            start_time=self._at(monotonic_ns()),
            attributes={"session.id": session, "rtvi.bot": bot},
        )
        self._in_session = trace.set_span_in_context(self._span, context.Context())
        self._in_span = trace.set_span_in_context

    def event(self, event: Event) -> None:
        """What happened in the conversation."""
        if isinstance(event, Interrupted):
            self._interrupted.add(event.turn)
        elif self._with_text:
            self._note(event)

    def _note(self, event: Event) -> None:
        match event:
            case UserTyped(text=text):
                self._typed = text
            case UserText(turn=turn, text=text, final=True):
                self._texts.setdefault(turn, []).append(("user", text))
            case AnswerText(turn=turn, text=text):
                self._texts.setdefault(turn, []).append(("bot", text))
            case _:
                pass

    def turn_over(self, record: TurnRecord) -> None:
        """Make the spans of a turn, which ends now."""
        now_ns = self._now_ns()
        segments = record.segments_ns
        began_ns = min([record.began_ns or now_ns, *(begin for begin, _ in segments.values())])
        attributes: dict[str, Any] = {
            "rtvi.turn": record.turn,
            "rtvi.source": record.source,
            "rtvi.interrupted": record.turn in self._interrupted,
        }
        if segments:
            total_ns = max(end for _, end in segments.values()) - min(begin for begin, _ in segments.values())
            attributes |= {"rtvi.voice_to_voice_ms": total_ns / 1e6, "rtvi.own_share_ms": record.own_share_ms}
        if self._with_text:
            attributes |= self._text_of(record)
        turn = self._tracer.start_span("turn", context=self._in_session, start_time=self._at(began_ns), attributes=attributes)
        in_turn = self._in_span(turn, self._in_session)
        for name, (begin, end) in segments.items():
            self._tracer.start_span(name, context=in_turn, start_time=self._at(begin)).end(self._at(end))
        turn.end(self._at(now_ns))
        self._turns += 1
        self._interrupted = {number for number in self._interrupted if number > record.turn}

    def session_over(self, reason: str) -> None:
        """The session is over."""
        self._span.set_attributes({"rtvi.ended": reason, "rtvi.turns": self._turns})
        self._span.end(self._at(self._now_ns()))

    def _text_of(self, record: TurnRecord) -> dict[str, str]:
        said = self._texts.pop(record.turn, [])
        self._texts = {turn: texts for turn, texts in self._texts.items() if turn > record.turn}
        texts = {who: "".join(text for by, text in said if by == who)[:MAX_TEXT_CHARS] for who in ("user", "bot")}
        if record.source == "text":
            texts["user"], self._typed = self._typed[:MAX_TEXT_CHARS], ""
        return {f"rtvi.{who}_text": text for who, text in texts.items() if text}

    def _at(self, monotonic_ns: int) -> int:
        return monotonic_ns + self._offset_ns


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _exporter(settings: Observe) -> Any:
    if settings.tracing == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)
