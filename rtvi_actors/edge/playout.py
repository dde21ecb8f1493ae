"""When the bot's audio leaves: frames of 40 ms against absolute deadlines, a little ahead of real time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtvi_actors.frames.types import AudioEnded, BotAudio, Cancel, Clause, LlmEnded, Marks, Pause, Resume, Role
from rtvi_actors.rtvi.events import BotStarted, BotStopped, ClauseSkipped, ClauseSpoken, TtsStarted, TtsStopped


@dataclass(frozen=True, slots=True)
class AnswerOpened:
    """The join of ``turn`` happened: from now on the bot thinks about it."""

    turn: int


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of the last WakeAt has come."""


PlayoutEvent: TypeAlias = AnswerOpened | Clause | BotAudio | Marks | AudioEnded | LlmEnded | Pause | Resume | Cancel | Tick


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send ``pcm`` (PCM16 LE, 24 kHz, mono, up to 40 ms) to the client now."""

    turn: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Grant:
    """Give ``size_bytes`` of the credited ``stream`` back to its producer ``to``: ``port.grant(to, stream, size_bytes)``."""

    to: Role
    stream: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class BotStateChanged:
    """Send BotState(turn=turn, state=state) to speaking and llm."""

    turn: int
    state: str


@dataclass(frozen=True, slots=True)
class Heard:
    """``turn`` is over: send Played(turn=turn, clause, char, final=True) to speaking and llm, and give this to the join.

    Once per turn that was opened. The user heard all clauses before ``clause`` and ``char`` characters of that one.
    """

    turn: int
    clause: int
    char: int


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call ``handle(Tick(), now)`` at ``at_ms``. Replaces the timer before; without one in the answer no timer is needed."""

    at_ms: int


Command: TypeAlias = (
    SendAudio
    | Grant
    | BotStateChanged
    | Heard
    | WakeAt
    | TtsStarted
    | TtsStopped
    | BotStarted
    | ClauseSpoken
    | ClauseSkipped
    | BotStopped
)
"""The last six are events for the translator."""


class Playout:
    """The bot's voice of one session.

    Attributes:
        underruns: how often the client ran dry in the middle of a turn.
        gap_ms: for how long altogether.
    """

    def __init__(self, lead_ms: int, rate: int = 24_000) -> None:
        self.underruns = 0
        self.gap_ms = 0

    def handle(self, event: PlayoutEvent, now_ms: int) -> list[Command]:
        """Take one event at ``now_ms`` (monotonic). Commands are to be executed in order."""
        return []
