"""What the turn machine takes and what it asks for: one small dataclass each. Times are milliseconds of one monotonic clock,
samples count from the start of the session, at 16 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

SAMPLE_RATE_HZ: Final = 16_000
WINDOW_SAMPLES: Final = 512
"""Length of a VAD window."""
WINDOW_MS: Final = 32

# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """A window of 512 samples arrived; ``speech`` is the gate's verdict."""

    first_sample: int
    speech: bool


@dataclass(frozen=True, slots=True)
class TranscriptSeen:
    """A transcript of ``turn`` came back."""

    turn: int
    attempt: int
    text: str
    final: bool
    language: str = ""
    sentence_end: float = -1.0
    """See the frame."""


@dataclass(frozen=True, slots=True)
class BotStateSeen:
    """The edge says what the bot does with ``turn``: silent, thinking, speaking."""

    state: str
    turn: int


@dataclass(frozen=True, slots=True)
class Requested:
    """A turn without speech is wanted."""

    request: str
    source: str
    interrupt: bool


@dataclass(frozen=True, slots=True)
class EndJudged:
    """The answer to AskEnd: how likely the user had finished, 0 to 1; None: the model failed, the rules are to judge."""

    turn: int
    attempt: int
    probability: float | None


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of a WakeAt has come."""


Event: TypeAlias = SpeechWindow | TranscriptSeen | BotStateSeen | Requested | EndJudged | Tick

# ------------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class StartTurn:
    """``turn`` begins. ``reopens``: the turn that the user seems to go on with by it; 0 for none."""

    turn: int
    source: str
    request: str = ""
    under_bot: bool = False
    reopens: int = 0


@dataclass(frozen=True, slots=True)
class ForwardAudio:
    """Send the user's audio from ``from_sample`` on to STT, until the turn ends or is cancelled."""

    turn: int
    from_sample: int


@dataclass(frozen=True, slots=True)
class MayEnd:
    """Decode what is there, up to ``last_sample``, as ``attempt``."""

    turn: int
    attempt: int
    last_sample: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The user went on: attempts up to ``attempt`` are void."""

    turn: int
    attempt: int


@dataclass(frozen=True, slots=True)
class EndTurn:
    """The user's part is over; the last speech ended at ``last_sample``."""

    turn: int
    attempt: int
    last_sample: int


@dataclass(frozen=True, slots=True)
class PauseBot:
    """Hold the bot's ``turn``."""

    turn: int


@dataclass(frozen=True, slots=True)
class ResumeBot:
    """Go on with the bot's ``turn``."""

    turn: int


@dataclass(frozen=True, slots=True)
class CancelBot:
    """All turns below ``fence`` are void. ``reopens``: the one whose words turn ``fence`` goes on with; 0 for none."""

    fence: int
    reason: str
    reopens: int = 0


@dataclass(frozen=True, slots=True)
class RefuseRequest:
    """The request is dropped."""

    request: str
    reason: str


@dataclass(frozen=True, slots=True)
class AskEnd:
    """Ask the end-of-turn model whether the user had finished with ``attempt``; answer with EndJudged."""

    turn: int
    attempt: int
    text: str
    language: str
    pauses_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Give a Tick at ``at_ms``, instead of at the time asked for before."""

    at_ms: int


Command: TypeAlias = (
    StartTurn | ForwardAudio | MayEnd | Resumed | EndTurn | PauseBot | ResumeBot | CancelBot | RefuseRequest | AskEnd | WakeAt
)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One step of the machine. Feeding the events of a log into a new machine repeats it."""

    now_ms: int
    event: Event
    commands: tuple[Command, ...]
