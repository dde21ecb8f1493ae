"""Who is told what happens in an edge's sessions: the metrics and the traces, as far as they are on."""

from __future__ import annotations

from collections.abc import Mapping

from rtvi_actors.config import Config
from rtvi_actors.observe.latency import TurnRecord
from rtvi_actors.observe.metrics import Metrics
from rtvi_actors.observe.tracing import SessionTrace, Tracing
from rtvi_actors.rtvi.events import Event


class Observer:
    """Of one edge. ``metrics`` is None when they are off.

    Raises:
        ConfigError: tracing is on, and its packages are not installed.
    """

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics() if config.observe.metrics else None
        self._tracing = Tracing(config.observe, config.app.name) if config.observe.tracing else None

    @property
    def traces(self) -> bool:
        """Whether spans are made."""
        return self._tracing is not None

    def session(self, session: str, bot: str) -> SessionObserver:
        """For a session that begins."""
        trace = self._tracing.session(session, bot) if self._tracing is not None else None
        return SessionObserver(self.metrics, trace)

    def close(self) -> None:
        """Export what is left. Waits for the network: call it in a thread."""
        if self._tracing is not None:
            self._tracing.close()


class SessionObserver:
    """Of one session; without arguments it tells nobody."""

    def __init__(self, metrics: Metrics | None = None, trace: SessionTrace | None = None) -> None:
        self._metrics = metrics
        self._trace = trace

    def event(self, event: Event) -> None:
        """What the client is told."""
        if self._metrics is not None:
            self._metrics.event(event)
        if self._trace is not None:
            self._trace.event(event)

    def error(self, scope: str) -> None:
        """A stage reported an error."""
        if self._metrics is not None:
            self._metrics.error(scope)

    def turn_over(self, record: TurnRecord | None) -> None:
        """A turn that had an answer is over; None when nothing is known of it."""
        if record is None:
            return
        if self._metrics is not None:
            self._metrics.turn_over(record)
        if self._trace is not None:
            self._trace.turn_over(record)

    def session_over(self, reason: str, counted: Mapping[str, int]) -> None:
        """The session is over: why, in one of a few words, and what it had counted. Once."""
        if self._metrics is not None:
            self._metrics.session_over(reason, counted)
        if self._trace is not None:
            self._trace.session_over(reason)
