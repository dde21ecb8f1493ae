"""Which turns the model may answer, and when. Pure: frames in, commands out.

A turn of speech is answered when its words are there (Transcript) and the user's part is over (TurnEnded), both of the same
attempt, in either order: then it is *committed*. With speculation the model begins on the words alone; the answer is worth nothing
before the commit, and is thrown away when the user goes on talking. Typed text is joined with its turn by the request's name, a
text of the application's (say) needs only its turn.

A Cancel voids answers, not what the user said: the words of a turn that ended before it are kept, however late they come. A turn
may *reopen* an earlier one, which had ended too early: from its Cancel on, the words of both are one message, that of the later
turn.

Three things hold the model back. A turn opened under the bot means nothing before its Cancel: most are a cough or an "mhm".
While an earlier answer may still be heard, nobody knows what the context will say of it: the model waits until that was told
(Played), 100 ms at most after the Cancel. And while words of an earlier turn are still to come, it waits for them: the STT stage
gives each turn that ended its final within a set time.
"""

from __future__ import annotations

from typing import Any

from rtvi_actors.frames.types import (
    Cancel,
    ClientText,
    Frame,
    Played,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.llm.turn_commands import (
    Begin,
    Command,
    Commit,
    Heard,
    Lost,
    Note,
    Say,
    Stop,
    WakeAt,
    Withdraw,
)
from rtvi_actors.llm.turn_record import TurnRecord

__all__ = [
    "MAX_TEXTS",
    "MAX_TURNS",
    "PLAYED_WAIT_MS",
    "Begin",
    "Command",
    "Commit",
    "Heard",
    "Lost",
    "Note",
    "Say",
    "Stop",
    "TurnTable",
    "WakeAt",
    "Withdraw",
]

PLAYED_WAIT_MS = 100
"""Longest wait for what was heard of an answer that is over."""
MAX_TURNS = 32
"""Turns that are remembered; beyond it the oldest that is over is forgotten, and its late frames with it."""
MAX_TEXTS = 32
"""Typed texts that wait for their turn; the oldest beyond it is dropped."""


class TurnTable:
    """What is known of the turns of one session. ``speculate``: begin before the commit. ``last_turn``: of those that another
    actor has seen, all over.
    """

    def __init__(self, speculate: bool, last_turn: int = 0) -> None:
        self._speculate = speculate
        self._fence = last_turn + 1 if last_turn else 0
        self._turns: dict[int, TurnRecord] = {}
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
        turn = self._turns.get(number) if number is not None else None
        if turn is not None:
            self._join_typed(turn, frame)
        elif number is None:
            self._texts[frame.request] = frame
            return [Lost(lost.text) for lost in _drop_oldest(self._texts, MAX_TEXTS)]
        return []

    def _join_typed(self, turn: TurnRecord, typed: ClientText) -> None:
        turn.attempt = turn.ended = 1
        turn.text, turn.audio = typed.text, typed.audio

    def _transcript(self, frame: Transcript) -> list[Command]:
        turn = self._turns.get(frame.turn) if frame.turn < self._fence else self._get(frame.turn)
        if turn is None or turn.source not in ("", "speech") or (frame.turn < self._fence and (turn.void or not turn.ended)):
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
        turn = self._get(frame.fence) if frame.reopens else None
        if turn is not None:
            turn.reopens = frame.reopens
        commands: list[Command] = []
        for turn in self._turns.values():
            if turn.turn < self._fence and turn.cancelled_ms < 0:
                turn.cancelled_ms = now_ms
                turn.void = turn.void or not (turn.committed or turn.owes_words or turn.reopened)
                if turn.begun:
                    commands.append(Stop(turn.turn))
        return commands

    def _played(self, frame: Played) -> list[Command]:
        turn = self._turns.get(frame.turn)
        if turn is None:
            return []
        turn.heard = Heard(turn.turn, frame.clause, frame.char)
        return self._heard(turn) if turn.committed else []

    @staticmethod
    def _heard(turn: TurnRecord) -> list[Command]:
        if turn.heard is None or turn.played:
            return []
        turn.played = True
        return [Stop(turn.turn), turn.heard]

    # ------------------------------------------------------------------------------------------------------- all turns

    def _advance(self, now_ms: int) -> list[Command]:
        """What has become possible."""
        commands: list[Command] = []
        turns = [turn for _, turn in sorted(self._turns.items()) if turn.started and not turn.void]
        for turn in turns:
            commands += self._reopen(turn.reopens)
        for turn in turns:
            if turn.attempt <= turn.void_through:
                continue
            commands += self._advance_turn(turn, now_ms) if turn.turn >= self._fence else self._keep_words(turn)
        return commands

    def _reopen(self, number: int) -> list[Command]:
        turn = self._turns.get(number)
        if turn is None or turn.reopened:
            return []
        turn.reopened = True
        return [Withdraw(number)] if turn.committed else []

    def _keep_words(self, turn: TurnRecord) -> list[Command]:
        """Those of a cancelled turn."""
        text = self._message(turn)
        if not turn.owes_words or not turn.is_heard_out or text is None:
            return []
        if not text.strip():
            turn.void = True
            return []
        turn.committed = True
        heard, turn.played = self._heard(turn), True
        return [Commit(turn.turn, turn.attempt, text), *heard]

    def _advance_turn(self, turn: TurnRecord, now_ms: int) -> list[Command]:
        text = self._message(turn)
        if text is None or (turn.under_bot and self._fence < turn.turn):
            return []
        commands: list[Command] = []
        if turn.is_heard_out and not turn.committed:
            if not text.strip() and turn.source == "speech":
                turn.void = True
                return []
            turn.committed = True
            commands += [Commit(turn.turn, turn.attempt, text), *self._heard(turn)]
        worth_it = turn.committed or (self._speculate and bool(text))
        if turn.begun or not worth_it or any(earlier.ended and earlier.owes_words for earlier in self._before(turn)):
            return commands
        open_ms = self._gate_ms(turn, now_ms)
        if open_ms > now_ms:
            if self._wake_ms < 0 or open_ms < self._wake_ms:
                self._wake_ms = open_ms
                commands.append(WakeAt(open_ms))
            return commands
        turn.begun = turn.attempt
        commands.append(Begin(turn.turn, turn.attempt, text, turn.source, turn.audio, turn.committed))
        return commands

    def _message(self, turn: TurnRecord) -> str | None:
        """The user's message of ``turn``, with the words of the turns that it reopens; None while some of those are missing."""
        texts = [turn.text]
        earlier = self._turns.get(turn.reopens)
        while earlier is not None:
            if not earlier.void:
                if not earlier.is_heard_out:
                    return None
                texts.append(earlier.text)
            earlier = self._turns.get(earlier.reopens) if earlier.reopens < earlier.turn else None
        return turn.text if len(texts) == 1 else " ".join(text.strip() for text in reversed(texts) if text.strip())

    def _before(self, turn: TurnRecord) -> list[TurnRecord]:
        return [earlier for earlier in self._turns.values() if earlier.turn < turn.turn]

    def _gate_ms(self, turn: TurnRecord, now_ms: int) -> int:
        """When ``turn`` may begin at the latest, as far as earlier answers are concerned."""
        if turn.wanted_ms < 0:
            turn.wanted_ms = now_ms
        waits = [
            (earlier.cancelled_ms if earlier.cancelled_ms >= 0 else turn.wanted_ms) + PLAYED_WAIT_MS
            for earlier in self._before(turn)
            if earlier.committed and not earlier.played
        ]
        return max(waits, default=now_ms)

    def _stop_attempts_below(self, turn: TurnRecord, attempt: int) -> list[Command]:
        if 0 < turn.begun < attempt and not turn.committed:
            turn.begun = 0
            return [Stop(turn.turn)]
        return []

    def _get(self, number: int) -> TurnRecord | None:
        """The record of a turn that is not cancelled; made when it is new."""
        if number < max(self._fence, 1):
            return None
        turn = self._turns.get(number)
        if turn is None:
            turn = self._turns[number] = TurnRecord(number)
            if len(self._turns) > MAX_TURNS:
                self._forget_one()
        return self._turns.get(number)

    def _forget_one(self) -> None:
        """The oldest turn that is over: under one long answer there may be any number of coughs, all of them newer."""
        over = [turn.turn for turn in self._turns.values() if turn.void or turn.played or turn.cancelled_ms >= 0]
        del self._turns[min(over or self._turns)]


def _drop_oldest(waiting: dict[str, Any], count: int) -> list[Any]:
    return [waiting.pop(next(iter(waiting))) for _ in range(len(waiting) - count)]
