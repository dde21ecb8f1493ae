"""What a client sends, on its way into the conversation: audio to the speaking stage, requests to whom they concern.

Nothing that a client sends can end its session here but a disconnect-bot; whatever cannot be used is told, and forgotten.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import time
from collections.abc import Callable

from rtvi_actors import config
from rtvi_actors.edge.client import message_bytes
from rtvi_actors.edge.conversation import Conversation
from rtvi_actors.edge.evaluation import Evaluation
from rtvi_actors.edge.join import Typed
from rtvi_actors.edge.json_wire import JsonWire
from rtvi_actors.edge.limits import MessageBudget, Problem, Throttle, check_audio, check_size
from rtvi_actors.edge.microphone import BATCH_INTERVAL_MS, Microphone
from rtvi_actors.edge.wire import AudioIn, MessageIn, ProtobufWire
from rtvi_actors.frames.types import ClientMessage, ClientText, TurnRequest
from rtvi_actors.rtvi import handshake
from rtvi_actors.rtvi.messages import (
    ClientCustom,
    ClientReady,
    DisconnectBot,
    EnvelopeError,
    Message,
    RawAudio,
    Request,
    RequestError,
    SendText,
    error,
    error_response,
    parse,
    request_of,
)
from rtvi_actors.runtime.port import StagePort, Timer

log = logging.getLogger(__name__)

ABOUT = {"library": "rtvi_actors", "library_version": importlib.metadata.version("rtvi_actors")}
CAPABILITIES = {"audio_in": True, "audio_out": True, "video_in": False, "screen_in": False, "video_out": False, "metrics": True}
MAX_WAITING_TEXTS = 16
"""Typed texts whose turn has not begun; one more is refused. Fewer than the stages hold, so that none is lost there."""
AUDIO_TYPES = frozenset({"raw-audio", "raw-audio-batch"})


class Intake:
    """The client's messages of one session, one at a time, in the order of their arrival. The kind of the first chooses the wire.

    ``on_disconnect`` is called at disconnect-bot, ``on_cancel`` when a test ends its session.
    """

    def __init__(
        self,
        port: StagePort,
        conversation: Conversation,
        limits: config.Edge,
        on_disconnect: Callable[[], None],
        on_cancel: Callable[[], None],
    ) -> None:
        self.microphone = Microphone(conversation.arrivals)
        self.budget = MessageBudget(limits.max_messages_per_s, port.now_ms())
        self._port = port
        self._conversation = conversation
        self._limits = limits
        self._on_disconnect = on_disconnect
        self._evaluation = Evaluation(port, conversation, on_cancel) if limits.eval_messages else None
        self._throttle = Throttle()
        self._wire_chosen = False
        self._hearing: Timer | None = None
        self.ready = False
        """client-ready came."""
        self.texts = 0
        """Typed so far."""
        self._leaving = False

    def deafen(self) -> None:
        """Hear the microphone no more, and refuse typed texts."""
        self._leaving = True

    def take(self, data: bytes | str) -> bool:
        """Take one WebSocket message: a binary one as bytes, a text frame as str. False: it was audio, and nothing else is new."""
        if not self._wire_chosen:
            self._wire_chosen = True
            self._conversation.wire = JsonWire() if isinstance(data, str) else ProtobufWire()
        now_ms = self._port.now_ms()
        problem = self.budget.take(now_ms) or check_size(message_bytes(data), self._limits.max_message_bytes)
        incoming = self._conversation.wire.decode(data) if problem is None else problem
        if isinstance(incoming, AudioIn):
            problem = self._take_audio(incoming)
        elif isinstance(incoming, MessageIn):
            problem = self._take_message(incoming.text)
        elif isinstance(incoming, Problem):
            problem = incoming
        if problem is not None and self._throttle.allow(problem.kind, now_ms):
            self._conversation.send(error(problem.text))
        return not isinstance(incoming, AudioIn)

    # ------------------------------------------------------------------------------------------------------------- audio

    def _take_audio(self, audio: AudioIn) -> Problem | None:
        problem = check_audio(len(audio.pcm), audio.rate_hz, audio.channels)
        if problem is None and not self._leaving:
            self.microphone.push(audio, time.monotonic_ns())
            if self._hearing is None:
                self._hear()
        return problem

    def _hear(self) -> None:
        """Hand windows to the speaking stage; a burst in batches, since links keep only its newest ten seconds."""
        for window in self.microphone.pull():
            self._port.send("speaking", window)
        more = self.microphone.waiting_windows > 0
        self._hearing = self._port.call_later(BATCH_INTERVAL_MS, self._hear) if more else None

    # ---------------------------------------------------------------------------------------------------------- messages

    def _take_message(self, text: str) -> Problem | None:
        try:
            message = parse(text, max_depth=self._limits.max_json_depth)
        except EnvelopeError as refusal:
            if refusal.reply is not None:
                self._conversation.send(refusal.reply)
            return None
        try:
            return self._obey(message, request_of(message))
        except RequestError as refusal:
            # Audio comes many times a second, and if one piece is wrong, all are.
            if message.type not in AUDIO_TYPES or self._throttle.allow(message.type, self._port.now_ms()):
                self._conversation.send(refusal.reply)
        except Exception as failure:
            log.exception("session %s: %s failed", self._port.session, message.type)
            self._conversation.send(error_response(f"Exception processing message: {failure}", message.id))
        return None

    def _obey(self, message: Message, request: Request) -> Problem | None:
        match request:
            case RawAudio(pcm=pcm, rate_hz=rate_hz, channels=channels):
                return self._take_audio(AudioIn(pcm, rate_hz, channels))
            case ClientReady():
                self._client_ready(message)
            case SendText():
                self._send_text(message.id or "", request)
            case DisconnectBot():
                self._on_disconnect()
            case ClientCustom():
                if self._evaluation is None or not self._evaluation.take(message.id or "", request):
                    self._forward(message)
        return None

    def _client_ready(self, message: Message) -> None:
        replies, version = handshake.ready(message, ABOUT, CAPABILITIES)
        self._conversation.set_client_version(version)
        for reply in replies:
            self._conversation.send(reply)
        if not self.ready:
            # Repeated, it is answered again, but the bot does not start again.
            self.ready = True
            self._forward(message)

    def _send_text(self, message_id: str, text: SendText) -> None:
        if self._leaving:
            raise RequestError(error_response("Refused: the session is ending", message_id))
        if self._conversation.waiting_texts >= MAX_WAITING_TEXTS:
            raise RequestError(error_response(f"Refused: {MAX_WAITING_TEXTS} texts wait already", message_id))
        self.texts += 1
        request = f"text-{self.texts}"
        run = text.run_immediately
        self._conversation.typed(Typed(request, text.content, message_id, run))
        self._port.send("llm", ClientText(request=request, text=text.content, run=run, audio=text.audio_response))
        if run:
            self._port.send("speaking", TurnRequest(request=request, source="text", interrupt=True))

    def _forward(self, message: Message) -> None:
        """The bot lives at the LLM stage."""
        data = json.dumps(message.data or {}).encode()
        self._port.send("llm", ClientMessage(id=message.id or "", type=message.type, data=data))
