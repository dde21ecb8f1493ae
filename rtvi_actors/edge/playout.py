"""When the bot's audio leaves: frames of 40 ms against absolute deadlines, a little ahead of real time.

One number carries the clock: ``_end``, the time at which the client will have played all it was sent. The next frame is due
``lead_ms`` before it. When the client ran dry, ``_end`` moves to now: late audio is played late, never in a burst.

A client cannot be told to discard what it has, so what was sent counts as heard. Words are told (WordsSpoken) by the same rule and
as soon as they are sent: what a client was told of an answer that is cut off is what the context keeps of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rtvi_actors.frames.types import AudioEnded, BotAudio, Cancel, Clause, LlmEnded, Marks, Pause, Resume, Role
from rtvi_actors.rtvi.events import BotStarted, BotStopped, ClauseSkipped, ClauseSpoken, TtsStarted, TtsStopped, WordsSpoken
from rtvi_actors.speaking.heard import heard_char

FRAME_MS = 40
SAMPLE_BYTES = 2
BLOCK_SAMPLES = 128
"""The JavaScript client plays whole blocks of this size and keeps a remainder until more comes."""

PRODUCER = "tts"
STREAM = "bot_audio"


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
    | WordsSpoken
    | ClauseSpoken
    | ClauseSkipped
    | BotStopped
)
"""The last seven are events for the translator."""


@dataclass(slots=True, eq=False)
class _ClauseAudio:
    """One clause and what came and went of its audio, in samples. ``total`` is known once all of it came."""

    number: int
    text: str
    spoken: bool
    marks: list[Any] = field(default_factory=list)
    received: int = 0
    sent: int = 0
    total: int | None = None
    told: int = 0
    """Characters of which WordsSpoken told."""

    def is_through(self) -> bool:
        """Whether nothing more of it will be sent."""
        return not self.spoken or self.sent == self.total

    def heard(self) -> int:
        """Characters whose sound was sent, in whole words."""
        return heard_char(self.text, self.sent, self.total, self.marks)


@dataclass(slots=True, eq=False)
class _Turn:
    """One answer: its clauses, what of its audio waits, and how far it came."""

    number: int
    clauses: dict[int, _ClauseAudio] = field(default_factory=dict)
    waiting: deque[tuple[_ClauseAudio, bytes]] = field(default_factory=deque)
    expected: int | None = None
    """How many clauses the answer has, once it is complete."""
    sent: int = 0
    paused: bool = False
    resumed: bool = False
    tts_open: bool = False

    def is_sent(self) -> bool:
        """Whether the answer is complete and all its audio was sent."""
        complete = self.expected is not None and len(self.clauses) >= self.expected
        return complete and all(clause.is_through() for clause in self.clauses.values())

    def heard(self) -> Heard:
        """Up to the end of the last clause that is through, or into the one that is being sent."""
        place = Heard(self.number, 0, 0)
        for clause in self.clauses.values():
            if clause.is_through():
                place = Heard(self.number, clause.number, len(clause.text))
            elif clause.sent:
                return Heard(self.number, clause.number, clause.heard())
            else:
                break
        return place


class Playout:
    """The bot's voice of one session. Turns play one after the other, in the order in which they were opened.

    Holds no more audio than the stream's window: bytes are granted back when they are sent or dropped.

    Attributes:
        underruns: how often the client ran dry in the middle of a turn.
        gap_ms: for how long altogether.
    """

    def __init__(self, lead_ms: int, rate: int = 24_000) -> None:
        self.underruns = 0
        self.gap_ms = 0
        self._rate = rate
        self._lead = lead_ms * rate // 1_000
        self._frame_bytes = FRAME_MS * rate // 1_000 * SAMPLE_BYTES
        self._end = 0
        """When the client will have played everything, in samples of the monotonic clock."""
        self._turns: deque[_Turn] = deque()

    def handle(self, event: PlayoutEvent, now_ms: int) -> list[Command]:
        """Take one event at ``now_ms`` (monotonic). Commands are to be executed in order."""
        now = now_ms * self._rate // 1_000
        commands = self._take(event)
        while self._turns:
            turn = self._turns[0]
            commands += self._send_due(turn, now)
            if not turn.is_sent() or (turn.sent and now < self._end):
                break
            commands += self._leave(turn)
        wake = self._next_wake()
        if wake is not None:
            commands.append(WakeAt(-(-wake * 1_000 // self._rate)))
        return commands

    def _take(self, event: PlayoutEvent) -> list[Command]:
        """What ``event`` changes at once, whatever the time."""
        match event:
            case AnswerOpened():
                return self._open(event.turn)
            case Cancel():
                return self._flush(event.fence)
            case Tick():
                return []
        turn = next((turn for turn in self._turns if turn.number == event.turn), None)
        if isinstance(event, BotAudio):
            return self._queue(turn, event)
        if turn is None:
            return []
        match event:
            case Clause():
                turn.clauses[event.clause] = _ClauseAudio(event.clause, event.text, event.spoken)
            case Marks() if event.clause in turn.clauses:
                turn.clauses[event.clause].marks = event.marks
            case AudioEnded() if event.clause in turn.clauses:
                return self._complete(turn, turn.clauses[event.clause])
            case LlmEnded():
                turn.expected = event.clauses
            case Pause():
                turn.paused = True
            case Resume():
                turn.paused, turn.resumed = False, turn.paused
        return []

    def _open(self, number: int) -> list[Command]:
        self._turns.append(_Turn(number))
        return [BotStateChanged(number, "thinking")] if len(self._turns) == 1 else []

    def _queue(self, turn: _Turn | None, audio: BotAudio) -> list[Command]:
        """Keep the audio of an open clause, in frames of 40 ms at most; drop any other."""
        clause = turn.clauses.get(audio.clause) if turn is not None else None
        if turn is None or clause is None or not clause.spoken or clause.total is not None:
            return [Grant(PRODUCER, STREAM, len(audio.pcm))]
        for start in range(0, len(audio.pcm), self._frame_bytes):
            turn.waiting.append((clause, audio.pcm[start : start + self._frame_bytes]))
        clause.received += len(audio.pcm) // SAMPLE_BYTES
        if turn.tts_open or not audio.pcm:
            return []
        turn.tts_open = True
        return [TtsStarted(turn.number)]

    def _complete(self, turn: _Turn, clause: _ClauseAudio) -> list[Command]:
        """All audio of the clause came. None at all: the voice failed, and the clause is only read."""
        clause.total = clause.received
        if not clause.received:
            return [ClauseSkipped(turn.number, clause.number, clause.text)]
        return self._spoken(turn, clause)

    def _spoken(self, turn: _Turn, clause: _ClauseAudio) -> list[Command]:
        """What is told after a frame of the clause: that it is through, or the words that are. So at most one event in 40 ms."""
        if clause.is_through():
            return [ClauseSpoken(turn.number, clause.number, clause.text, clause.told)]
        start, end = clause.told, clause.heard() if clause.marks else 0
        if end <= start:
            return []
        clause.told = end
        return [WordsSpoken(turn.number, clause.number, clause.text, start, end)]

    def _send_due(self, turn: _Turn, now: int) -> list[Command]:
        """Send what is due by ``now`` of the turn, and its padding behind the last of it."""
        commands: list[Command] = []
        while turn.waiting and not turn.paused and self._end - self._lead <= now:
            clause, pcm = turn.waiting.popleft()
            if not turn.sent:
                commands += [BotStateChanged(turn.number, "speaking"), BotStarted(turn.number)]
            self._catch_up(turn, now)
            commands += [self._send(turn, pcm), Grant(PRODUCER, STREAM, len(pcm))]
            clause.sent += len(pcm) // SAMPLE_BYTES
            commands += self._spoken(turn, clause)
        if turn.tts_open and turn.is_sent():
            turn.tts_open = False
            padding = -turn.sent % BLOCK_SAMPLES
            if padding:
                commands.append(self._send(turn, bytes(padding * SAMPLE_BYTES)))
            commands.append(TtsStopped(turn.number))
        return commands

    def _catch_up(self, turn: _Turn, now: int) -> None:
        """A client that ran dry plays what comes next from now on. In mid-turn that is a gap, unless it was paused."""
        if now > self._end:
            if turn.sent and not turn.resumed:
                self.underruns += 1
                self.gap_ms += (now - self._end) * 1_000 // self._rate
            self._end = now
        turn.resumed = False

    def _send(self, turn: _Turn, pcm: bytes) -> SendAudio:
        turn.sent += len(pcm) // SAMPLE_BYTES
        self._end += len(pcm) // SAMPLE_BYTES
        return SendAudio(turn.number, pcm)

    def _flush(self, fence: int) -> list[Command]:
        """Drop all turns below the fence, with what waits of them."""
        commands: list[Command] = []
        for turn in [turn for turn in self._turns if turn.number < fence]:
            dropped = sum(len(pcm) for _, pcm in turn.waiting)
            if dropped:
                commands.append(Grant(PRODUCER, STREAM, dropped))
            commands += self._leave(turn)
        return commands

    def _leave(self, turn: _Turn) -> list[Command]:
        """The turn is over, played or cancelled; the next one is thought about."""
        was_first = self._turns[0] is turn
        self._turns.remove(turn)
        commands: list[Command] = [TtsStopped(turn.number)] if turn.tts_open else []
        if turn.sent:
            commands.append(BotStopped(turn.number))
        commands += [turn.heard(), BotStateChanged(turn.number, "silent")]
        if was_first and self._turns:
            commands.append(BotStateChanged(self._turns[0].number, "thinking"))
        return commands

    def _next_wake(self) -> int | None:
        """When something is due next, if nothing else happens."""
        if not self._turns:
            return None
        turn = self._turns[0]
        if turn.waiting and not turn.paused:
            return self._end - self._lead
        return self._end if turn.sent and turn.is_sent() else None
