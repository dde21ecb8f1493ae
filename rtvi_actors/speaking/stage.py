"""The speaking stage: the user's audio in; turns, and the audio that belongs to them, out.

It owns what the pure machine does not know: the audio of the last moments, the voice activity model, one timer, and who is told
what.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from rtvi_actors.frames import snapshot
from rtvi_actors.frames.types import (
    Attach,
    Audio,
    BotState,
    Cancel,
    Error,
    Frame,
    Pause,
    Played,
    Resume,
    Role,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnMayEnd,
    TurnRequest,
    TurnStarted,
)
from rtvi_actors.runtime.port import StagePort, Timer
from rtvi_actors.speaking.end_of_turn import Judge, load_model
from rtvi_actors.speaking.events import (
    WINDOW_MS,
    WINDOW_SAMPLES,
    AskEnd,
    BotStateSeen,
    CancelBot,
    Command,
    EndJudged,
    EndTurn,
    Event,
    ForwardAudio,
    MayEnd,
    PauseBot,
    RefuseRequest,
    Requested,
    ResumeBot,
    Resumed,
    SpeechWindow,
    StartTurn,
    Tick,
    TranscriptSeen,
    WakeAt,
)
from rtvi_actors.speaking.turn import TurnMachine
from rtvi_actors.speaking.vad import WINDOW_BYTES, SileroVad, SpeechGate, Vad, VadState

if TYPE_CHECKING:
    from rtvi_actors.config import Config, Speaking

_ALL: Final[tuple[Role, ...]] = ("edge", "llm", "tts", "stt")
"""Who hears of a turn's beginning and of what becomes void. The edge first: it is the one that makes sound."""
_LISTENERS: Final[tuple[Role, ...]] = ("stt", "llm", "edge")
_SLACK_WINDOWS: Final = 2


class SpeakingStages:
    """What a process of speaking stages holds: the voice activity model, once, and the application's end-of-turn model.

    Raises:
        ConfigError: that model cannot be found or made.
    """

    def __init__(self, config: Config) -> None:
        self._settings = config.speaking
        self._vad = SileroVad()
        model = load_model(config)
        self._judge = None if model is None else Judge(model)

    def create(self, port: StagePort, attach: Attach) -> SpeakingStage:
        """A stage for a new session."""
        return SpeakingStage(port, self._settings, self._vad, self._judge, snapshot.decode(attach.snapshot).turn)

    def close(self) -> None:
        """Stop asking the end-of-turn model."""
        if self._judge is not None:
            self._judge.close()


class SpeakingStage:
    """One session's turns. Holds about half a second of audio; everything else of a turn is forwarded at once."""

    def __init__(self, port: StagePort, settings: Speaking, vad: Vad, judge: Judge | None = None, last_turn: int = 0) -> None:
        self._port = port
        self._settings = settings
        self._vad = vad
        self._vad_state = VadState()
        self._gate = SpeechGate(settings.vad_threshold, settings.vad_release)
        self._judge = judge
        self._machine = TurnMachine(settings, ask_model=judge is not None, last_turn=last_turn)
        self._partial = bytearray()
        """Audio of a window that is not complete yet, from ``_first_sample`` on."""
        self._first_sample = 0
        self._heard_ms: int | None = None
        # As much as a turn can ask for: the pre-roll before its onset, and the windows of the onset.
        onset = max(settings.start_windows, settings.when_thinking.start_windows, settings.when_speaking.start_windows)
        kept = -(-settings.pre_roll_ms // WINDOW_MS) + onset + _SLACK_WINDOWS
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._forwarding: int | None = None
        self._timer: Timer | None = None
        self._closed = False

    async def open(self) -> None:
        """Nothing to get ready: the model is loaded."""

    async def close(self) -> None:
        """Stop the timer."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def receive(self, frame: Frame) -> None:
        """Take one frame. 0.1 ms for a window of audio, half a millisecond where caches are cold; never blocks."""
        match frame:
            case Audio():
                self._hear(frame)
            case Transcript():
                seen = TranscriptSeen(frame.turn, frame.attempt, frame.text, frame.final, frame.language, frame.sentence_end)
                self._step(seen)
            case BotState():
                self._step(BotStateSeen(frame.state, frame.turn))
            case Played(final=True):
                self._step(BotStateSeen("silent", frame.turn))  # nothing more of it will be heard
            case TurnRequest():
                self._step(Requested(frame.request, frame.source, frame.interrupt))
            case _:
                pass  # what other stages need to know

    # -------------------------------------------------------------------------------------------------------------- audio

    def _hear(self, audio: Audio) -> None:
        now_ms = self._port.now_ms()
        pcm = audio.pcm[: len(audio.pcm) & ~1]
        silent_for_ms = 0 if self._heard_ms is None else now_ms - self._heard_ms
        self._heard_ms = now_ms
        was_off = silent_for_ms >= self._settings.missing_audio_ms
        if was_off or audio.first_sample < self._first_sample:
            self._recent.clear()  # what came before is no lead-in to what comes now
        if was_off or audio.first_sample != self._first_sample + len(self._partial) // 2:
            self._skip_to(audio.first_sample)
        self._partial += pcm
        while len(self._partial) >= WINDOW_BYTES:
            window = bytes(self._partial[:WINDOW_BYTES])
            del self._partial[:WINDOW_BYTES]
            first_sample, self._first_sample = self._first_sample, self._first_sample + WINDOW_SAMPLES
            self._hear_window(first_sample, window)

    def _skip_to(self, sample: int) -> None:
        """Audio is missing before ``sample``: what the model remembers does not lead up to it."""
        self._partial.clear()
        self._first_sample = sample
        self._vad_state.reset()

    def _hear_window(self, first_sample: int, window: bytes) -> None:
        speech = self._gate.update(self._vad.probability(window, self._vad_state))
        self._recent.append((first_sample, window))
        if self._forwarding is not None:  # before the commands: TurnMayEnd goes behind the audio that it is about
            self._forward(first_sample, window)
        self._step(SpeechWindow(first_sample, speech))

    def _forward(self, first_sample: int, window: bytes) -> None:
        self._port.send("stt", Audio(first_sample, window, turn=self._forwarding or 0))

    # ----------------------------------------------------------------------------------------------------------- commands

    def _step(self, event: Event) -> None:
        for command in self._machine.handle(event, self._port.now_ms()):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case StartTurn(turn, source, request, under_bot, reopens):
                self._tell(_ALL, TurnStarted(request, source, under_bot, reopens, turn=turn))
            case ForwardAudio(turn, from_sample):
                self._forwarding = turn
                for first_sample, window in self._recent:
                    if first_sample + WINDOW_SAMPLES > from_sample:
                        self._forward(first_sample, window)
            case MayEnd(turn, attempt, last_sample):
                self._tell(("stt", "edge"), TurnMayEnd(last_sample, turn=turn, attempt=attempt))
            case Resumed(turn, attempt):
                self._tell(_ALL, SpeechResumed(turn=turn, attempt=attempt))
            case EndTurn(turn, attempt, last_sample):
                self._forwarding = None
                self._tell(_LISTENERS, TurnEnded(last_sample, turn=turn, attempt=attempt))
            case PauseBot(turn):
                self._tell(_ALL, Pause(turn=turn))
            case ResumeBot(turn):
                self._tell(_ALL, Resume(turn=turn))
            case CancelBot(fence, reason, reopens):
                if self._forwarding is not None and self._forwarding < fence:
                    self._forwarding = None
                self._tell(_ALL, Cancel(fence, reason, reopens, turn=fence))
            case RefuseRequest(request, reason):
                text = f"the turn requested as {request!r} was dropped: {reason}"
                self._tell(("edge",), Error("turn", True, text))
            case AskEnd():
                self._ask(command)
            case WakeAt(at_ms):
                self._wake_at(at_ms)

    def _ask(self, question: AskEnd) -> None:
        def answer(probability: float | None) -> None:
            if not self._closed:
                self._step(EndJudged(question.turn, question.attempt, probability))

        if self._judge is not None:
            self._judge.ask(question, answer)

    def _tell(self, roles: tuple[Role, ...], frame: Frame) -> None:
        for role in roles:
            self._port.send(role, frame)

    def _wake_at(self, at_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._port.call_later(max(1, at_ms - self._port.now_ms()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._step(Tick())
