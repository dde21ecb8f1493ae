"""Who has the floor: what the turn machine knows of the user's turn and of the bot's. Times are ms of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rtvi_actors.speaking.events import SAMPLE_RATE_HZ, WINDOW_MS, WINDOW_SAMPLES, SpeechWindow

if TYPE_CHECKING:
    from rtvi_actors.config import Speaking, UnderBot

_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1_000
MAX_PAUSES: Final = 64
"""Pauses of a turn that are remembered."""
MAX_REOPENED: Final = 8
"""Turns that may become one message."""
REACTION_MS: Final = 250
"""Who begins to speak within this of the bot's first sound does not answer it: nobody reacts so fast."""


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
    sentence_end: float = -1.0
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

    def gone_on_with(self, onset_ms: int, within_ms: int) -> Said | None:
        """The turn that somebody goes on with who says or types something at ``onset_ms``; None: it is something new."""
        said = self.said
        if said is None or self.state == "silent" or not within_ms or len(said.chain()) >= MAX_REOPENED:
            return None
        if self.state == "speaking":
            return said if onset_ms <= min(self.since_ms + REACTION_MS, said.ended_ms + within_ms) else None
        # As long as its words are not known, nobody can have answered them.
        return said if said.text is None or onset_ms <= said.ended_ms + within_ms else None

    def was_heard(self, until_ms: int, within_ms: int) -> bool:
        """Whether the user has heard all of it, or more than ``within_ms`` by ``until_ms``."""
        return self.state == "silent" or (self.state == "speaking" and until_ms - self.since_ms > within_ms)


@dataclass(slots=True, eq=False)
class Ear:
    """What the latest windows of the microphone held."""

    run: int = 0
    """Speech windows in a row, up to the last window ..."""
    run_from: int = 0
    """... and the first sample of theirs."""
    last_window_ms: int = 0
    last_sample: int = 0
    ended_sample: int = 0
    """Speech up to here belongs to an earlier turn."""

    def hear(self, window: SpeechWindow, now_ms: int) -> None:
        """Take the next window."""
        self.last_window_ms = now_ms
        self.last_sample = window.first_sample + WINDOW_SAMPLES
        if window.speech and self.run == 0:
            self.run_from = window.first_sample
        self.run = self.run + 1 if window.speech else 0

    def forget(self, ended_sample: int) -> None:
        """A turn is over that ended with ``ended_sample``."""
        self.run, self.ended_sample = 0, ended_sample

    def from_sample(self, pre_roll_ms: int) -> int:
        """Where a turn begins that this run opens: before it, but with nothing that an earlier turn has had.

        Sample counts may jump, hence the lower bound by the onset.
        """
        pre_roll = self.run_from - pre_roll_ms * _SAMPLES_PER_MS
        return max(0, min(self.run_from, max(pre_roll, self.ended_sample)))

    def pause_ms(self, speech_end: int) -> int:
        """How long the silence was between ``speech_end`` and this run."""
        return (self.run_from - speech_end) // _SAMPLES_PER_MS
