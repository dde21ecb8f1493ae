"""Where the time of a turn went: milestones in a fixed order, segments that add up to the total.

A milestone that speculation reached before its predecessor counts at the predecessor's time, so no segment is negative and none
is counted twice. All times are monotonic nanoseconds of one node: those of frames are their ``sent_ns``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

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
from rtvi_actors.rtvi.events import TurnFigures

MILESTONES = ("speech_end", "turn_ended", "final", "first_token", "first_clause", "first_audio", "first_sent")
SEGMENTS = ("endpointing", "stt", "llm", "clause", "tts", "playout")
"""Segment ``i`` lies between the milestones ``i`` and ``i + 1``."""

COMPUTE = {"stt": ("stt",), "llm": ("llm", "clause"), "tts": ("tts",)}
"""Whose compute lies in which segments."""

MAX_TURNS = 16
"""Turns of which milestones are kept. Older ones are forgotten: they were void or are over."""

MAX_ARRIVALS = 1_024
"""At 50 messages of audio a second: 20 s, much more than an endpointing wait."""


class ArrivalTimes:
    """When the user's samples arrived at the edge. Keeps the last ``MAX_ARRIVALS`` messages."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[int, int]] = deque(maxlen=MAX_ARRIVALS)

    def add(self, first_sample: int, samples: int, now_ns: int) -> None:
        """``samples`` samples (16 kHz, counted from the start of the session) arrived now."""
        self._arrivals.append((first_sample + samples, now_ns))

    def at(self, sample: int) -> int | None:
        """When the last sample before ``sample`` arrived; None when nothing arrived up to it.

        Older than what is kept: the oldest time that is.
        """
        found = None
        for end, now_ns in reversed(self._arrivals):
            if end < sample:
                break
            found = now_ns
        return found


@dataclass(slots=True)
class TurnClock:
    """The milestones and figures of one turn."""

    marks: dict[str, int] = field(default_factory=dict)
    compute_ms: dict[str, float] = field(default_factory=dict)
    services: list[tuple[str, str, float]] = field(default_factory=list)

    def mark(self, milestone: str, at_ns: int) -> None:
        """``milestone`` was reached. Only its first time counts."""
        self.marks.setdefault(milestone, at_ns)

    def segments_ns(self) -> dict[str, tuple[int, int]]:
        """Segment -> its begin and its end, in order, without gaps. Empty before the first and the last milestone are there."""
        if MILESTONES[0] not in self.marks or MILESTONES[-1] not in self.marks:
            return {}
        segments = {}
        before = self.marks[MILESTONES[0]]
        # The last milestone bounds the others: one that came after it did not delay the sound.
        last = max(before, self.marks[MILESTONES[-1]])
        for segment, milestone in zip(SEGMENTS, MILESTONES[1:], strict=True):
            at = min(last, max(before, self.marks.get(milestone, before)))
            segments[segment] = (before, at)
            before = at
        return segments

    def segments_ms(self) -> dict[str, float]:
        """Segment -> ms, in order; adds up to the time from the first to the last milestone. Empty before these are there."""
        return {segment: (end - begin) / 1e6 for segment, (begin, end) in self.segments_ns().items()}

    def own_share_ms(self, segments: dict[str, float]) -> float:
        """The total less the endpointing wait less the engines' compute, as far as that lies inside its segments."""
        own = sum(segments.values()) - segments["endpointing"]
        for engine, names in COMPUTE.items():
            own -= min(self.compute_ms.get(engine, 0.0), sum(segments[name] for name in names))
        return max(0.0, own)


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn that is over. ``source``: speech, text, say, tool; "" when its begin was not seen. Times as in the frames.

    ``began_ns``: its TurnStarted. ``segments_ns``: segment -> begin and end; empty for a text of the application's, and for a turn
    of which nothing was audible.
    """

    turn: int
    source: str
    began_ns: int
    segments_ns: dict[str, tuple[int, int]]
    own_share_ms: float


class _Turn:
    """A turn's clock, and which attempt its speculative milestones belong to."""

    def __init__(self) -> None:
        self.clock = TurnClock()
        self.attempt = 0
        self.source = ""
        self.began_ns = 0

    @property
    def said(self) -> bool:
        """A text of the application's answers nobody: there is no latency to tell."""
        return self.source == "say"


class Latency:
    """The milestones of one session's turns. Feed it every frame that the stages send; it keeps ``MAX_TURNS`` turns."""

    def __init__(self, arrivals: ArrivalTimes) -> None:
        self._arrivals = arrivals
        self._turns: dict[int, _Turn] = {}
        self._fence = 0

    def handle(self, frame: Frame) -> None:
        """Take note of a milestone or of a Metrics frame. Frames of turns below the fence, and other frames, are ignored."""
        if isinstance(frame, Cancel):
            # Cancelled turns stay for finish(); what else comes of them does not count.
            self._fence = max(self._fence, frame.fence)
            return
        if frame.turn < max(1, self._fence):
            return
        turn = self._turn(frame)
        if turn is not None:
            self._note(turn, frame)

    def first_sound(self, turn: int, now_ns: int) -> TurnFigures | None:
        """At BotStarted: the turn's latency and the services' figures so far. None for an unknown turn."""
        known = self._turns.get(turn)
        if known is None:
            return None
        clock = known.clock
        clock.mark("first_sent", now_ns)
        segments = {} if known.said else clock.segments_ms()
        own_share_ms = clock.own_share_ms(segments) if segments else 0.0
        services, clock.services = clock.services, []
        return TurnFigures(turn, sum(segments.values()), segments, own_share_ms, services)

    def record(self, turn: int) -> TurnRecord | None:
        """At Heard, before :meth:`finish`: what there is to keep of the turn. None for an unknown one."""
        known = self._turns.get(turn)
        if known is None:
            return None
        clock = known.clock
        segments_ns = {} if known.said else clock.segments_ns()
        own_share_ms = clock.own_share_ms(clock.segments_ms()) if segments_ns else 0.0
        return TurnRecord(turn, known.source, known.began_ns, segments_ns, own_share_ms)

    def finish(self, turn: int) -> TurnFigures | None:
        """At Heard: the figures that came later; None when there are none. The turn is forgotten."""
        known = self._turns.pop(turn, None)
        if known is None or not known.clock.services:
            return None
        return TurnFigures(turn, 0.0, {}, 0.0, known.clock.services)

    def _turn(self, frame: Frame) -> _Turn | None:
        """The turn of ``frame``; None when the frame belongs to an attempt that is void."""
        turn = self._turns.get(frame.turn)
        if turn is None:
            turn = self._turns[frame.turn] = _Turn()
            if len(self._turns) > MAX_TURNS:
                del self._turns[min(self._turns)]
        if isinstance(frame, SpeechResumed):
            # What the resumed attempt reached does not count for the next one.
            self._restart(turn, frame.attempt + 1)
        elif frame.attempt > turn.attempt:
            self._restart(turn, frame.attempt)
        elif 0 < frame.attempt < turn.attempt:
            return None
        return turn

    def _restart(self, turn: _Turn, attempt: int) -> None:
        if attempt > max(1, turn.attempt):
            turn.clock = TurnClock()
        turn.attempt = max(turn.attempt, attempt)

    def _note(self, turn: _Turn, frame: Frame) -> None:
        clock = turn.clock
        match frame:
            case TurnStarted():
                turn.source, turn.began_ns = frame.source, frame.sent_ns
                if frame.source != "speech":
                    clock.mark("speech_end", frame.sent_ns)
            case TurnEnded():
                arrived = self._arrivals.at(frame.last_sample)
                clock.mark("speech_end", frame.sent_ns if arrived is None else arrived)
                clock.mark("turn_ended", frame.sent_ns)
            case Transcript(final=True):
                clock.mark("final", frame.sent_ns)
            case LlmText():
                clock.mark("first_token", frame.sent_ns)
            case Clause():
                clock.mark("first_clause", frame.sent_ns)
            case BotAudio():
                clock.mark("first_audio", frame.sent_ns)
            case Metrics(name="compute_ms"):
                clock.compute_ms[frame.segment] = frame.value
            case Metrics():
                clock.services.append((frame.segment, frame.name, frame.value))
            case _:
                pass
