"""One session's conversation at the edge: frames of the stages in; RTVI messages, paced audio and frames to the stages out.

Joins the pure parts (join, playout, translator, latency) with a port and an outbox. Knows nothing of the connection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from rtvi_actors.edge.client import Outbox
from rtvi_actors.edge.join import Join, Output, Play, Typed
from rtvi_actors.edge.playout import BotStateChanged, Command, Grant, Heard, Playout, PlayoutEvent, SendAudio, Tick, WakeAt
from rtvi_actors.edge.reports import Reports
from rtvi_actors.edge.wire import ProtobufWire, Wire
from rtvi_actors.frames import snapshot
from rtvi_actors.frames.snapshot import Snapshot
from rtvi_actors.frames.types import BotState, Cancel, Frame, Played, Remembered
from rtvi_actors.observe.latency import ArrivalTimes, Latency
from rtvi_actors.observe.observer import SessionObserver
from rtvi_actors.rtvi.events import AnswerStarted, BotStarted, Event, TurnFigures, UserStarted, UserStopped
from rtvi_actors.rtvi.messages import Message, to_json
from rtvi_actors.rtvi.translate import Translator
from rtvi_actors.runtime.port import StagePort, Timer

BOT_RATE_HZ = 24_000
KEPT_TURNS = 50
"""Turns whose figures are remembered for whoever asks."""


class Conversation:
    """The conversation of one session. ``on_silent`` is called each time the bot has become silent.

    Attributes:
        turns: answers begun so far.
        figures: latency of the last 50 turns that were heard, oldest first.
        bot_state: silent, thinking or speaking.
        user_speaking: between the user's start and stop, as the client was told.
        wire: how the client is spoken to; that of Pipecat's clients until it has sent something.
        reports: what it is told beside the conversation.
    """

    def __init__(
        self, port: StagePort, outbox: Outbox, lead_ms: int, on_silent: Callable[[], None], observer: SessionObserver
    ) -> None:
        self.turns = 0
        self.figures: deque[TurnFigures] = deque(maxlen=KEPT_TURNS)
        self.bot_state = "silent"
        self.user_speaking = False
        self.wire: Wire = ProtobufWire()
        self.reports = Reports()
        self.arrivals = ArrivalTimes()
        self.playout = Playout(lead_ms, BOT_RATE_HZ)
        self._port = port
        self._outbox = outbox
        self._on_silent = on_silent
        self._observer = observer
        self._join = Join()
        self._translator = Translator()
        self._latency = Latency(self.arrivals)
        self._remembered = b""
        """The conversation, as the LLM stage told it last."""
        self._timer: Timer | None = None
        self._wake_ms: int | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a turn is going on: somebody speaks or is waited for."""
        return self.user_speaking or self.bot_state != "silent"

    @property
    def waiting_texts(self) -> int:
        """Typed texts whose turn has not begun."""
        return self._join.waiting_texts

    @property
    def owes(self) -> bool:
        """Whether something was asked of the bot, typed or spoken to its end, that it does not answer yet."""
        return self._join.owes

    @property
    def at_rest(self) -> bool:
        """Whether no stage has anything to do for it: it may go on at others."""
        return not self.busy and self._join.at_rest

    def snapshot(self, *, started: bool) -> Snapshot:
        """What other stages need to go on with it."""
        return Snapshot(self._join.newest_turn, started, snapshot.decode_conversation(self._remembered))

    def is_over(self, turn: int) -> bool:
        """Whether nothing more comes of ``turn``, which was or will be started."""
        return self._join.is_over(turn)

    def set_client_version(self, version: tuple[int, int, int]) -> None:
        """What the client speaks, from its client-ready."""
        self._translator.client_version = version

    def receive(self, frame: Frame) -> None:
        """Take one frame of a stage."""
        if isinstance(frame, Remembered):
            self._remembered = frame.conversation
            return
        if isinstance(frame, Cancel):
            self._outbox.drop_audio(frame.fence)
        for message in self.reports.of_frame(frame):
            self.send(message)
        self._latency.handle(frame)
        self._execute(self._join.handle(frame))

    def typed(self, typed: Typed) -> None:
        """The user typed something; its frames are sent after this."""
        self._execute(self._join.handle(typed))

    def tell(self, event: Event) -> None:
        """Tell the client what happened."""
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        for message in [*self._translator.handle(event, timestamp), *self.reports.of_event(event)]:
            self.send(message)
        self._observer.event(event)

    def send(self, message: Message) -> None:
        """Queue one RTVI message."""
        self._outbox.put(self.wire.encode_message(to_json(message)))

    def close(self) -> None:
        """No sound leaves any more."""
        self._wake_at(None)
        self._closed = True

    # ------------------------------------------------------------------------------------------------------------ inside

    def _execute(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Play):
                self._play(output.event)
            elif isinstance(output, Grant):
                self._port.grant(output.to, output.stream, output.size_bytes)
            else:
                self._happened(output)

    def _play(self, event: PlayoutEvent) -> None:
        if self._closed:
            return
        commands = self.playout.handle(event, self._port.now_ms())
        self._wake_at(next((command.at_ms for command in commands if isinstance(command, WakeAt)), None))
        for command in commands:
            self._obey(command)
        for command in commands:
            if isinstance(command, BotStarted):
                self._tell_latency(command.turn)

    def _obey(self, command: Command) -> None:
        match command:
            case SendAudio(turn=turn, pcm=pcm):
                self._send_audio(turn, pcm)
            case Grant(to=to, stream=stream, size_bytes=size_bytes):
                self._port.grant(to, stream, size_bytes)
            case BotStateChanged(turn=turn, state=state):
                self._state_changed(turn, state)
            case Heard():
                self._heard(command)
            case WakeAt():
                pass  # the timer is set already
            case _:
                self._happened(command)

    def _send_audio(self, turn: int, pcm: bytes) -> None:
        data = self.wire.encode_audio(pcm, BOT_RATE_HZ)
        if data is not None:
            self._outbox.put(data, audio_of=turn)

    def _happened(self, event: Event) -> None:
        if isinstance(event, AnswerStarted):
            self.turns += 1
        elif isinstance(event, UserStarted | UserStopped):
            self.user_speaking = isinstance(event, UserStarted)
        self.tell(event)

    def _tell_latency(self, turn: int) -> None:
        """The first sound of ``turn`` is on its way: now there is time for figures."""
        figures = self._latency.first_sound(turn, time.monotonic_ns())
        if figures is not None:
            if figures.segments_ms:
                self.figures.append(figures)
            self.tell(figures)

    def _state_changed(self, turn: int, state: str) -> None:
        self.bot_state = state
        for role in ("speaking", "llm"):
            self._port.send(role, BotState(turn=turn, state=state))
        if state == "silent":
            self._on_silent()

    def _heard(self, heard: Heard) -> None:
        for role in ("speaking", "llm"):
            self._port.send(role, Played(turn=heard.turn, clause=heard.clause, char=heard.char, final=True))
        self._execute(self._join.handle(heard))
        record, figures = self._latency.record(heard.turn), self._latency.finish(heard.turn)
        if figures is not None:
            self.tell(figures)
        self._observer.turn_over(record)

    def _wake_at(self, at_ms: int | None) -> None:
        """Deadlines are absolute, so a late wake-up does not shift those that follow."""
        if at_ms == self._wake_ms and at_ms is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_ms = at_ms
        if at_ms is not None:
            self._timer = self._port.call_later(max(0, at_ms - self._port.now_ms()), self._tick)

    def _tick(self) -> None:
        self._timer = self._wake_ms = None
        self._play(Tick())
