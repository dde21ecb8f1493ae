"""Which turns the model may answer, and when. Pure: frames in, commands out.

A turn of speech is answered when its words are there (Transcript) and the user's part is over (TurnEnded), both of the same
attempt, in either order: then it is *committed*. With speculation the model begins on the words alone; the answer is worth nothing
before the commit, and is thrown away when the user goes on talking. Typed text is joined with its turn by the request's name, a
text of the application's (say) needs only its turn.

Two things hold the model back. A turn opened under the bot's speech means nothing before its Cancel: most are a cough or an "mhm".
And while an earlier answer may still be heard, nobody knows what the context will say of it: the model waits until that was told
(Played), 100 ms at most after the Cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from rtvi_actors.frames.types import (
    Cancel,
    ClientText,
    Frame,
    Played,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)

PLAYED_WAIT_MS = 100
"""Longest wait for what was heard of an answer that is over."""
MAX_TURNS = 32
"""Turns that are remembered; beyond it the oldest that is over is forgotten, and its late frames with it."""
MAX_TEXTS = 32
"""Typed texts that wait for their turn; the oldest beyond it is dropped."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The user's message of ``turn`` is settled: it is kept, and what is answered to it counts. Comes before or after Begin."""

    turn: int
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Answer ``text``. ``committed`` False: on trial."""

    turn: int
    attempt: int
    text: str
    source: str
    audio: bool
    committed: bool


@dataclass(frozen=True, slots=True)
class Say:
    """Say the application's text that asked for a turn as ``request``."""

    turn: int
    request: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the answer of ``turn``, if one runs: nothing more of it may leave."""

    turn: int


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer of ``turn`` is over for the user, who heard all clauses before ``clause`` and ``char`` characters of it."""

    turn: int
    clause: int
    char: int


@dataclass(frozen=True, slots=True)
class Note:
    """A text that is only remembered."""

    text: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call :meth:`TurnTable.wake` at ``at_ms``."""

    at_ms: int


Command: TypeAlias = Commit | Begin | Say | Stop | Heard | Note | WakeAt


@dataclass(slots=True)
class _Turn:
    turn: int
    started: bool = False
    source: str = ""
    under_bot: bool = False
    audio: bool = True
    attempt: int = 0
    """The newest attempt whose words are there; 0 for none."""
    text: str = ""
    void_through: int = 0
    """Attempts up to this one were resumed over."""
    ended: int = 0
    """The attempt that the user's part ended with; 0 while it is open."""
    begun: int = 0
    """The attempt that is being answered, or was; 0 for none."""
    committed: bool = False
    void: bool = False
    """It comes to nothing."""
    played: bool = False
    """What was heard of its answer is known."""
    heard: Heard | None = None
    """It, where the edge made the join, and the answer was over, before the commit here."""
    cancelled_ms: int = -1
    wanted_ms: int = -1
    """Since when it could begin, were it not for an earlier answer."""


class TurnTable:
    """What is known of the turns of one session. ``speculate``: begin before the commit."""

    def __init__(self, speculate: bool) -> None:
        self._speculate = speculate
        self._fence = 0
        self._turns: dict[int, _Turn] = {}
        self._texts: dict[str, ClientText] = {}
        self._requests: dict[str, int] = {}
        self._wake_ms = -1

    @property
    def fence(self) -> int:
        """Turns below it are cancelled."""
        return self._fence

    def handle(self, frame: Frame, now_ms: int) -> list[Command]:
        """Take a frame about turns; others change nothing."""
        commands: list[Command] = []
        match frame:
            case TurnStarted():
                commands += self._started(frame)
            case Transcript(final=True):
                commands += self._transcript(frame)
            case TurnEnded():
                commands += self._ended(frame)
            case SpeechResumed():
                commands += self._resumed(frame)
            case Cancel():
                commands += self._cancelled(frame, now_ms)
            case Resume():
                self._unconfirmed_are_void(frame.turn)
            case Played(final=True):
                commands += self._played(frame)
            case ClientText():
                commands += self._typed(frame)
            case _:
                return []
        return commands + self._advance(now_ms)

    def wake(self, now_ms: int) -> list[Command]:
        """The time that WakeAt asked for has come."""
        self._wake_ms = -1
        return self._advance(now_ms)

    # ------------------------------------------------------------------------------------------------------- one frame

    def _started(self, frame: TurnStarted) -> list[Command]:
        turn = self._get(frame.turn)
        if turn is None or turn.started:
            return []
        turn.started, turn.source, turn.under_bot = True, frame.source, frame.under_bot
        if frame.source != "speech":
            turn.attempt, turn.text = 0, ""
        if frame.source == "say":
            turn.committed, turn.begun = True, 1
            return [Say(turn.turn, frame.request)]
        if frame.source == "text":
            typed = self._texts.pop(frame.request, None)
            if typed is None:
                self._requests[frame.request] = turn.turn
                _drop_oldest(self._requests, MAX_TEXTS)
            else:
                self._join_typed(turn, typed)
        return []

    def _typed(self, frame: ClientText) -> list[Command]:
        if not frame.run:
            return [Note(frame.text)]
        number = self._requests.pop(frame.request, None)
        turn = self._get(number) if number is not None else None
        if turn is not None:
            self._join_typed(turn, frame)
        elif number is None:
            self._texts[frame.request] = frame
            _drop_oldest(self._texts, MAX_TEXTS)
        return []

    def _join_typed(self, turn: _Turn, typed: ClientText) -> None:
        turn.attempt = turn.ended = 1
        turn.text, turn.audio = typed.text, typed.audio

    def _transcript(self, frame: Transcript) -> list[Command]:
        turn = self._get(frame.turn)
        if turn is None or turn.source not in ("", "speech"):
            return []
        if frame.attempt <= max(turn.void_through, turn.attempt) or (turn.ended and frame.attempt != turn.ended):
            return []
        turn.attempt, turn.text = frame.attempt, frame.text
        return self._stop_attempts_below(turn, frame.attempt)

    def _ended(self, frame: TurnEnded) -> list[Command]:
        turn = self._get(frame.turn)
        if turn is None or turn.ended:
            return []
        turn.ended = frame.attempt
        turn.void_through = max(turn.void_through, frame.attempt - 1)
        if turn.under_bot and self._fence < turn.turn:
            turn.void = True
        return self._stop_attempts_below(turn, frame.attempt)

    def _resumed(self, frame: SpeechResumed) -> list[Command]:
        turn = self._get(frame.turn)
        if turn is None:
            return []
        turn.void_through = max(turn.void_through, frame.attempt)
        return self._stop_attempts_below(turn, frame.attempt + 1)

    def _cancelled(self, frame: Cancel, now_ms: int) -> list[Command]:
        self._fence = max(self._fence, frame.fence)
        commands: list[Command] = []
        for turn in self._turns.values():
            if turn.turn < self._fence and turn.cancelled_ms < 0:
                turn.cancelled_ms = now_ms
                turn.void = turn.void or not turn.committed
                if turn.begun:
                    commands.append(Stop(turn.turn))
        self._requests = {name: number for name, number in self._requests.items() if number >= self._fence}
        return commands

    def _unconfirmed_are_void(self, resumed: int) -> None:
        for turn in self._turns.values():
            if turn.turn > resumed and turn.under_bot and self._fence < turn.turn:
                turn.void = True

    def _played(self, frame: Played) -> list[Command]:
        turn = self._turns.get(frame.turn)
        if turn is None:
            return []
        turn.heard = Heard(turn.turn, frame.clause, frame.char)
        return self._heard(turn) if turn.committed else []

    @staticmethod
    def _heard(turn: _Turn) -> list[Command]:
        if turn.heard is None or turn.played:
            return []
        turn.played = True
        return [Stop(turn.turn), turn.heard]

    # ------------------------------------------------------------------------------------------------------- all turns

    def _advance(self, now_ms: int) -> list[Command]:
        """What has become possible."""
        commands: list[Command] = []
        for turn in sorted(self._turns.values(), key=lambda turn: turn.turn):
            if turn.started and not turn.void and turn.turn >= self._fence and turn.attempt > turn.void_through:
                commands += self._advance_turn(turn, now_ms)
        return commands

    def _advance_turn(self, turn: _Turn, now_ms: int) -> list[Command]:
        if turn.under_bot and self._fence < turn.turn:
            return []
        commands: list[Command] = []
        if turn.ended == turn.attempt and not turn.committed:
            if not turn.text and turn.source == "speech":
                turn.void = True
                return []
            turn.committed = True
            commands += [Commit(turn.turn, turn.attempt, turn.text), *self._heard(turn)]
        worth_it = turn.committed or (self._speculate and bool(turn.text))
        if turn.begun or not worth_it:
            return commands
        open_ms = self._gate_ms(turn, now_ms)
        if open_ms > now_ms:
            if self._wake_ms < 0 or open_ms < self._wake_ms:
                self._wake_ms = open_ms
                commands.append(WakeAt(open_ms))
            return commands
        turn.begun = turn.attempt
        commands.append(Begin(turn.turn, turn.attempt, turn.text, turn.source, turn.audio, turn.committed))
        return commands

    def _gate_ms(self, turn: _Turn, now_ms: int) -> int:
        """When ``turn`` may begin at the latest, as far as earlier answers are concerned."""
        if turn.wanted_ms < 0:
            turn.wanted_ms = now_ms
        waits = [
            (earlier.cancelled_ms if earlier.cancelled_ms >= 0 else turn.wanted_ms) + PLAYED_WAIT_MS
            for earlier in self._turns.values()
            if earlier.turn < turn.turn and earlier.committed and not earlier.played
        ]
        return max(waits, default=now_ms)

    def _stop_attempts_below(self, turn: _Turn, attempt: int) -> list[Command]:
        if 0 < turn.begun < attempt and not turn.committed:
            turn.begun = 0
            return [Stop(turn.turn)]
        return []

    def _get(self, number: int) -> _Turn | None:
        """The record of a turn that is not cancelled; made when it is new."""
        if number < max(self._fence, 1):
            return None
        turn = self._turns.get(number)
        if turn is None:
            turn = self._turns[number] = _Turn(number)
            if len(self._turns) > MAX_TURNS:
                self._forget_one()
        return self._turns.get(number)

    def _forget_one(self) -> None:
        """The oldest turn that is over: under one long answer there may be any number of coughs, all of them newer."""
        over = [turn.turn for turn in self._turns.values() if turn.void or turn.played or turn.cancelled_ms >= 0]
        del self._turns[min(over or self._turns)]


def _drop_oldest(waiting: dict[str, Any], count: int) -> None:
    while len(waiting) > count:
        del waiting[next(iter(waiting))]
