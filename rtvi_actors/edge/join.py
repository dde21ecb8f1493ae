"""Frames of four stages, in any order over their links, to one ordered conversation.

Each link keeps its own order and knows nothing of the others: a clause may come before the transcript that it answers, audio
before its clause, a turn's text before the turn. So the join holds what belongs to a turn that is not committed yet, and lets it
out in the order that clients rely on:

* A turn of speech is *joined* by Transcript(final) and TurnEnded of the same attempt; one of text or say by its TurnStarted.
  Nothing of the bot leaves before. The speculative transcript does, as not final.
* A turn opened under the bot's speech is *hidden* until its Cancel.
* A void turn (no words, or hidden to its end) leaves no trace but the user-stopped of a user-started that was sent. A turn that
  reopens another has words if one of the two has.
* The words of a turn that was cancelled behind its end are told when they come (``late_words``); later turns join behind them.
* Nothing of a turn below the fence leaves, nor of an attempt that was resumed over.

What is held is bounded by the windows of its producers' streams: each byte of ``bot_audio`` and ``text`` is granted back once, by
the playout when it was sent, or here when it left or was dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtvi_actors.edge.held_turn import AnswerFrame, HeldTurn, credit_of
from rtvi_actors.edge.late_words import LateWords
from rtvi_actors.edge.playout import AnswerOpened, Grant, Heard, PlayoutEvent
from rtvi_actors.frames.types import (
    AudioEnded,
    BotAudio,
    Cancel,
    Clause,
    Error,
    Frame,
    LlmEnded,
    LlmStarted,
    LlmText,
    Marks,
    Pause,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.rtvi.events import (
    AnswerClause,
    AnswerEnded,
    AnswerStarted,
    AnswerText,
    Event,
    Failure,
    Interrupted,
    UserStarted,
    UserStopped,
    UserText,
    UserTyped,
)

MAX_TYPED = 64
"""Typed texts that wait for their turn. Beyond it the oldest is not echoed to the client; it is answered all the same."""


@dataclass(frozen=True, slots=True)
class Typed:
    """The edge sent ClientText and, with ``run``, TurnRequest of ``request``: give this to the join first."""

    request: str
    text: str
    message_id: str
    run: bool


@dataclass(frozen=True, slots=True)
class Play:
    """Give ``event`` to the playout now, and execute its commands before the next output."""

    event: PlayoutEvent


Output: TypeAlias = Event | Play | Grant
"""Event: to the translator. All to be executed in order."""


class Join:
    """What has arrived of a session's turns, and what of it may be told."""

    def __init__(self) -> None:
        self._turns: dict[int, HeldTurn] = {}
        self._fence = 0
        self._newest = 0
        """The last turn that started. Numbers rise, so one up to it that is not in ``_turns`` is over."""
        self._typed: dict[str, Typed] = {}
        self._late = LateWords()

    def handle(self, event: Frame | Typed | Heard) -> list[Output]:
        """Take one frame from a stage, a typed text, or the playout's word that a turn is over. Other frames give nothing."""
        match event:
            case LlmStarted() | LlmText() | LlmEnded() | Clause() | BotAudio() | Marks() | AudioEnded():
                return self._answer(event)
            case Cancel():
                return self._cancel(event)
            case Typed():
                return self._type(event)
            case Heard():
                turn = self._turns.pop(event.turn, None)
                return [] if turn is None else [*credit_of([*turn.held, *turn.audio])]
            case Error():
                return self._fail(event)
            case Pause() | Resume():
                return self._hold(event)
            case Transcript() if event.turn in self._late:
                return self._hear_late(event)
            case TurnStarted() | SpeechResumed() | TurnEnded() | Transcript():
                turn = self._turn(event.turn)
                return [] if turn is None else self._user(turn, event)
        return []

    @property
    def waiting_texts(self) -> int:
        """Typed texts that have no turn yet."""
        return len(self._typed)

    @property
    def owes(self) -> bool:
        """Whether something was asked of the bot, typed or spoken to its end, that it does not answer yet."""
        asked = any(turn.ended is not None and not (turn.joined or turn.hidden) for turn in self._turns.values())
        return asked or bool(self._typed)

    @property
    def at_rest(self) -> bool:
        """Nothing has begun that is not over, and nothing is owed."""
        return not self._turns and not self._typed

    @property
    def newest_turn(self) -> int:
        """Of those that have begun."""
        return max(self._newest, self._fence - 1)

    def is_over(self, turn: int) -> bool:
        """Whether nothing more comes of ``turn``, which was or will be started."""
        return turn < self._fence or (turn <= self._newest and turn not in self._turns)

    def _turn(self, number: int) -> HeldTurn | None:
        """The turn ``number``, made when it is new; None when it is over or below the fence."""
        turn = self._turns.get(number)
        if turn is None and number > self._newest and number >= self._fence:
            turn = self._turns[number] = HeldTurn(number)
        return turn

    # The user's part

    def _user(self, turn: HeldTurn, frame: TurnStarted | SpeechResumed | TurnEnded | Transcript) -> list[Output]:
        match frame:
            case TurnStarted():
                return self._start(turn, frame)
            case SpeechResumed():
                return self._supersede(turn, frame.attempt + 1)
            case TurnEnded():
                outputs = self._supersede(turn, frame.attempt)
                turn.ended = frame.attempt
                return [*outputs, *self._try_join(turn)]
            case Transcript():
                return self._transcribe(turn, frame)

    def _start(self, turn: HeldTurn, frame: TurnStarted) -> list[Output]:
        self._newest = max(self._newest, turn.number)
        turn.source = frame.source
        turn.hidden = frame.under_bot
        if frame.source != "speech":
            typed = self._typed.pop(frame.request, None)
            echo: list[Output] = [] if typed is None else [UserTyped(typed.text, typed.message_id)]
            turn.ended = 1
            return [*self._supersede(turn, 1), *echo, *self._try_join(turn)]
        if turn.hidden:
            return []
        turn.told = True
        return [UserStarted(turn.number), *self._tell_transcript(turn)]

    def _transcribe(self, turn: HeldTurn, frame: Transcript) -> list[Output]:
        if turn.joined:
            return []
        if not frame.final:
            turn.partial = frame.text
            return self._tell_transcript(turn) if turn.final is None else []
        if frame.attempt < turn.attempt:
            return []
        outputs = self._supersede(turn, frame.attempt)
        turn.final = frame.text
        if turn.ended == turn.attempt:
            return [*outputs, *self._try_join(turn)]
        return [*outputs, *self._tell_transcript(turn)]

    def _tell_transcript(self, turn: HeldTurn) -> list[Output]:
        """What the turn's words are so far, as not final."""
        text = turn.partial if turn.final is None else turn.final
        return [UserText(turn.number, text, final=False)] if turn.told and text.strip() else []

    def _supersede(self, turn: HeldTurn, attempt: int) -> list[Output]:
        """The turn is at ``attempt`` now; what came of earlier ones is void."""
        if attempt <= turn.attempt or turn.joined:
            return []
        dropped: list[Output] = [*credit_of([frame for frame in turn.held if frame.attempt < attempt])]
        turn.held = [frame for frame in turn.held if frame.attempt >= attempt]
        turn.attempt = attempt
        turn.final = None
        return dropped

    def _try_join(self, turn: HeldTurn) -> list[Output]:
        """Join the turn, or void it, once it is clear which."""
        if turn.hidden:
            # It ends, and no Cancel came before: nobody has heard of it.
            return self._void(turn)
        if turn.joined or self._late.come_before(turn.number):
            return []
        if turn.source != "speech":
            return [*self._late.tell(), *self._commit(turn)]
        if turn.final is None:
            return []
        stopped: list[Output] = [UserStopped(turn.number)] if turn.told else []
        stopped += self._late.tell()
        if not self._late.settle(turn.number, turn.final, turn.reopens):
            return [*stopped, *self._void(turn)]
        if turn.final.strip():
            stopped.append(UserText(turn.number, turn.final, final=True))
        return [*stopped, *self._commit(turn)]

    def _hear_late(self, frame: Transcript) -> list[Output]:
        """Words of a cancelled turn. They are told at once, unless the user is speaking: then with the words that follow."""
        if not self._late.hear(frame):
            return []
        outputs = self._tell_late()
        for turn in list(self._turns.values()):
            if turn.ended == turn.attempt:
                outputs += self._try_join(turn)
        return outputs

    def _tell_late(self) -> list[Output]:
        user_speaks = any(turn.told and not turn.joined for turn in self._turns.values())
        return [] if user_speaks else list(self._late.tell())

    def _void(self, turn: HeldTurn) -> list[Output]:
        del self._turns[turn.number]
        return [*credit_of(turn.held)]

    def _type(self, typed: Typed) -> list[Output]:
        if not typed.run:
            return [UserTyped(typed.text, typed.message_id)]
        self._typed[typed.request] = typed
        if len(self._typed) > MAX_TYPED:
            del self._typed[next(iter(self._typed))]
        return []

    # The bot's part

    def _answer(self, frame: AnswerFrame) -> list[Output]:
        turn = self._turn(frame.turn)
        if turn is None or frame.attempt < turn.attempt:
            return [*credit_of([frame])]
        if turn.joined:
            return self._tell(turn, frame)
        outputs = self._supersede(turn, frame.attempt)
        turn.held.append(frame)
        return outputs

    def _commit(self, turn: HeldTurn) -> list[Output]:
        """Let out what was held of the answer."""
        turn.joined = True
        outputs: list[Output] = [Play(AnswerOpened(turn.number))]
        if turn.paused:
            outputs.append(Play(Pause(turn=turn.number)))
        held, turn.held = turn.held, []
        for frame in held:
            outputs += self._tell(turn, frame)
        return outputs

    def _hold(self, frame: Pause | Resume) -> list[Output]:
        """Pause or resume the bot's turn. It is the bot's from TurnEnded on, so a Pause may come before the join."""
        turn = self._turns.get(frame.turn)
        if turn is None:
            return []
        turn.paused = isinstance(frame, Pause)
        return [Play(frame)] if turn.joined else []

    def _tell(self, turn: HeldTurn, frame: AnswerFrame) -> list[Output]:
        match frame:
            case LlmStarted():
                turn.answering = True
                return [AnswerStarted(turn.number, frame.user_text, said=turn.source == "say")]
            case LlmText():
                return [AnswerText(turn.number, frame.text), *credit_of([frame])]
            case Clause():
                turn.clauses.add(frame.clause)
                told = AnswerClause(turn.number, frame.clause, frame.text, frame.spoken)
                return [told, Play(frame), *self._play_audio(turn)]
            case LlmEnded():
                return [*self._end_answer(turn), Play(frame)]
            case BotAudio() | Marks() | AudioEnded():
                turn.audio.append(frame)
                return self._play_audio(turn)

    def _play_audio(self, turn: HeldTurn) -> list[Output]:
        """Audio in its order, as far as its clauses are here."""
        outputs: list[Output] = []
        while turn.audio and turn.audio[0].clause in turn.clauses:
            outputs.append(Play(turn.audio.popleft()))
        return outputs

    def _end_answer(self, turn: HeldTurn) -> list[Output]:
        was_answering, turn.answering = turn.answering, False
        return [AnswerEnded(turn.number)] if was_answering else []

    # What ends turns

    def _cancel(self, cancel: Cancel) -> list[Output]:
        """All turns below the fence are void. The turn at the fence, if it was hidden, is now told."""
        self._fence = max(self._fence, cancel.fence)
        below = [self._turns.pop(number) for number in sorted(self._turns) if number < self._fence]
        outputs: list[Output] = [UserStopped(turn.number) for turn in below if turn.told and not turn.joined]
        for turn in below:
            if turn.source == "speech" and turn.ended is not None and not (turn.joined or turn.hidden):
                self._late.keep(turn.number, turn.ended, turn.final, turn.reopens)
        outputs += self._tell_late()
        new = self._turn(self._fence) if cancel.reopens else self._turns.get(self._fence)
        revealed = new is not None and new.hidden
        if new is not None:
            new.reopens = cancel.reopens
        if new is not None and revealed:
            new.hidden, new.told = False, True
            outputs.append(UserStarted(new.number))
        for turn in below:
            if turn.joined:
                outputs += [Interrupted(turn.number), *self._end_answer(turn)]
        outputs.append(Play(cancel))
        for turn in below:
            outputs += credit_of([*turn.held, *turn.audio])
        if new is not None and revealed:
            outputs += self._tell_transcript(new)
        return outputs

    def _fail(self, error: Error) -> list[Output]:
        """An error of a turn below the fence interests nobody any more."""
        if 0 < error.turn < self._fence and error.turn not in self._late:
            return []
        return [Failure(error.text, fatal=error.scope in ("session", "cluster"))]
