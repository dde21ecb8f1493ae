"""Where the time of a turn went: milestones in a fixed order, segments that add up to the total."""

from __future__ import annotations

from rtvi_actors.frames.types import Frame
from rtvi_actors.rtvi.events import TurnFigures


class ArrivalTimes:
    """When the user's samples arrived at the edge; bounded."""

    def add(self, first_sample: int, samples: int, now_ns: int) -> None:
        """``samples`` samples (16 kHz, counted from the start of the session) arrived now."""

    def at(self, sample: int) -> int | None:
        """When the last sample before ``sample`` arrived, monotonic ns; None when nothing is known."""
        return None


class Latency:
    """The milestones of one session's turns. Feed it every frame from the stages; bounded."""

    def __init__(self, arrivals: ArrivalTimes) -> None:
        self._arrivals = arrivals

    def handle(self, frame: Frame) -> None:
        """Take note of a milestone or a Metrics frame."""

    def first_sound(self, turn: int, now_ns: int) -> TurnFigures | None:
        """At BotStarted: the turn's latency and the services' figures so far."""
        return None

    def finish(self, turn: int) -> TurnFigures | None:
        """At Heard: the figures that came later, None when there are none. The turn is forgotten."""
        return None
