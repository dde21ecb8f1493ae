"""Who has the floor: what the turn machine knows of the user's turn and of the bot's. Times are ms of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rtvi_actors.speaking.events import WINDOW_MS

if TYPE_CHECKING:
    from rtvi_actors.config import Speaking, UnderBot

MAX_PAUSES = 64
"""Pauses of a turn that are remembered."""


@dataclass(slots=True, eq=False)
class Said:
    """A turn of speech that has ended, and the words of it as far as they are known."""

    turn: int
    attempt: int
    ended_ms: int
    text: str | None
    """Its final; None while that is still to come."""
    before: Said | None
    """The turn that it reopened."""

    def chain(self) -> list[Said]:
        """It, and what it reopened, latest first."""
        found: list[Said] = []
        said: Said | None = self
        while said is not None:
            found.append(said)
            said = said.before
        return found

    def read(self, turn: int, attempt: int, text: str) -> None:
        """A final came: it may be the one of this turn, or of one that it reopened."""
        for said in self.chain():
            if (said.turn, said.attempt) == (turn, attempt) and said.text is None:
                said.text = text

    @property
    def is_void(self) -> bool:
        """Whether it is known that there are no words in it."""
        return all(said.text is not None and not said.text.strip() for said in self.chain())

    @property
    def message(self) -> str:
        """The words that are known."""
        return " ".join(said.text.strip() for said in reversed(self.chain()) if said.text)


@dataclass(slots=True, eq=False)
class UserTurn:
    """The user's turn, while it lasts."""

    turn: int
    rules: UnderBot | None
    """What an interruption takes; None where the bot was silent."""
    over_speech: bool
    """Opened while the bot was speaking: backchannels do not count."""
    opened_ms: int
    last_speech_ms: int
    speech_end: int
    """Sample behind the last speech window."""
    speech_windows: int
    """Speech that no transcript has explained as a backchannel."""
    before: Said | None = None
    """The turn that this one goes on with."""
    confirmed: bool = False
    silent_windows: int = 0
    attempt: int = 0
    waiting: bool = False
    """The attempt is out, and the user has not gone on since."""
    attempt_ms: int = 0
    text: str | None = None
    """Final of that attempt."""
    language: str = ""
    latest: str = ""
    """The latest transcript, final or not."""
    probability: float | None = None
    """How likely the user had finished with ``text`` ..."""
    judged_by_ms: int | None = None
    """... and until when the model has time to say so; None: nobody is asked."""
    pauses_ms: list[int] = field(default_factory=list)
    """Pauses inside the turn, behind which the user went on."""
    paused_turn: int | None = None
    """The bot's turn that was paused for this one ..."""
    paused_ms: int = 0
    """... and when."""
    released_ms: int | None = None
    """When the bot was let go on: the words were none that interrupt it."""

    @property
    def speech_ms(self) -> int:
        """Speech that no transcript has explained as a backchannel."""
        return self.speech_windows * WINDOW_MS

    @property
    def message(self) -> str:
        """The words so far, with those of the turn that it goes on with."""
        before = self.before.message if self.before is not None else ""
        return f"{before} {self.text or ''}".strip()

    def start_windows(self, settings: Speaking) -> int:
        """Speech windows that count as speech."""
        return settings.start_windows if self.rules is None else self.rules.start_windows

    def went_on(self, pause_ms: int) -> None:
        """There is speech again behind an attempt."""
        self.pauses_ms = [*self.pauses_ms[-MAX_PAUSES + 1 :], pause_ms]
        self.waiting, self.text, self.probability, self.judged_by_ms, self.released_ms = False, None, None, None, None


@dataclass(slots=True, eq=False)
class BotTurn:
    """The bot's turn."""

    turn: int = 0
    state: str = "silent"
    since_ms: int = 0
    said: Said | None = None
    """What the user said to it; None for a turn without speech."""
    told: bool = True
    """The edge said so; otherwise it is what must come."""
