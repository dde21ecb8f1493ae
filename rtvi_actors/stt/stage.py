"""The STT stage: one session's turns from audio to one final transcript per attempt.

While the user talks, interims tell the words so far. The final is asked for at TurnMayEnd, while the endpointing wait still runs;
if speech resumes, the attempt is void and its request withdrawn. SpeechResumed and Cancel travel on another socket than the audio,
so they may come before the TurnMayEnd that they void: what is void is remembered, never guessed from the order of arrival.

A Cancel voids answers, not what the user said: a turn that ended before it still gets its final.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from rtvi_actors.engines.pool import EngineClient
from rtvi_actors.errors import EngineError, EngineTimeoutError
from rtvi_actors.frames.types import (
    Attach,
    Audio,
    Cancel,
    Error,
    Frame,
    Metrics,
    Role,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnMayEnd,
    TurnStarted,
)
from rtvi_actors.stt.captioning import Captioning
from rtvi_actors.stt.engine import SAMPLE_RATE_HZ, SttPiece, SttRequest
from rtvi_actors.stt.interims import FinalAsked, Opened, PartTaken, SpeechGoesOn
from rtvi_actors.stt.segments import join_texts
from rtvi_actors.stt.turn import Final, Part, Turn

if TYPE_CHECKING:
    from rtvi_actors.config import Config
    from rtvi_actors.runtime.port import StagePort

MAX_TURNS = 8
"""Turns whose audio is kept at a time; the oldest beyond it is given up. More than two only where finals are very late."""

RECEIVERS = ("llm", "speaking", "edge")
"""Who gets a final; the model that waits for it first."""
CAPTION_RECEIVERS = ("speaking", "edge")
"""Who gets an interim; it may confirm an interruption."""

NO_PIECE = SttPiece(text="", language="", compute_ns=0)
"""What is decoded of no audio."""


class SttStages:
    """Makes the STT stages of a process. Holds nothing: the model is in the engine."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def create(self, port: StagePort, attach: Attach) -> SttStage:
        """A stage for a new session."""
        return SttStage(self._config, port)

    def close(self) -> None:
        """Nothing to let go of."""


class SttStage:
    """One session. For each attempt that is not resumed over, exactly one Transcript(final) leaves, "" included.

    Sends finals to llm, speaking and edge, interims to speaking and edge, and to the edge Metrics of each final and an Error of
    scope turn for a final that failed or came too late.
    """

    def __init__(self, config: Config, port: StagePort) -> None:
        self._port = port
        self._deadline_ms = config.stt.final_deadline_ms
        self._timeout_ms = config.stt.timeout_ms
        self._interim_ms = config.stt.interim_ms
        self._max_samples = (config.speaking.max_turn_ms + config.speaking.pre_roll_ms) * SAMPLE_RATE_HZ // 1_000
        self._client: EngineClient[SttRequest, SttPiece] = EngineClient(port, "stt", SttRequest, SttPiece)
        self._turns: dict[int, Turn] = {}
        self._fence = 0
        """Turns below it are void or over, but for those in ``_turns``: they have ended, and their final is still to come."""

    async def open(self) -> None:
        """Nothing to prepare."""

    def receive(self, frame: Frame) -> None:
        """Take one frame; those that do not concern hearing are ignored."""
        if self._client.receive(frame):
            return
        match frame:
            case Cancel():
                self._on_cancel(frame)
            case Audio() | TurnMayEnd() | SpeechResumed() if frame.turn >= self._fence or frame.turn in self._turns:
                self._on_turn(self._turn(frame.turn), frame)
            case TurnStarted(source="speech") if frame.turn >= self._fence:
                self._on_started(self._turn(frame.turn), frame)
            case TurnEnded() if frame.turn in self._turns:  # others have no audio: typed text
                self._on_ended(self._turns[frame.turn], frame)
            case _:
                pass

    @property
    def open_requests(self) -> int:
        """What its engine has not answered to the end."""
        return self._client.open_requests

    def peer_lost(self, role: Role) -> None:
        """The process that plays ``role`` is gone."""
        self._client.lost(role)

    async def close(self) -> None:
        """Withdraw what is still being decoded."""
        for turn in self._turns.values():
            turn.stop()
        self._turns.clear()

    def _turn(self, number: int) -> Turn:
        turn = self._turns.get(number)
        if turn is None:
            turn = self._turns[number] = self._open_turn(number)
            if len(self._turns) > MAX_TURNS:
                self._give_up(self._turns[min(self._turns)])
        return turn

    def _give_up(self, turn: Turn) -> None:
        if turn.final is not None and turn.ended:
            turn.final.stop()
            self._answer(turn, turn.final, NO_PIECE, [EngineError("speech recognition is too far behind")])
        if turn.turn in self._turns:
            self._forget(turn.turn)

    def _open_turn(self, number: int) -> Turn:
        turn = Turn(number, self._max_samples)
        if self._interim_ms:
            for older in self._turns.values():  # one interim at a time
                older.caption(FinalAsked())
            turn.captions = Captioning(
                self._port,
                turn.audio,
                self._interim_ms,
                self._decode_interim,
                lambda text, language: self._caption(turn, text, language),
            )
        return turn

    def _on_started(self, turn: Turn, frame: TurnStarted) -> None:
        turn.caption(Opened(frame.under_bot))

    def _caption(self, turn: Turn, text: str, language: str) -> None:
        for role in CAPTION_RECEIVERS:
            transcript = Transcript(turn=turn.turn, attempt=turn.settled, text=text, final=False, language=language)
            self._port.send(role, transcript)

    def _forget(self, number: int) -> None:
        self._turns.pop(number).stop()
        self._fence = max(self._fence, number + 1)

    def _on_cancel(self, frame: Cancel) -> None:
        for number, turn in list(self._turns.items()):
            if number < frame.fence and turn.ended <= turn.settled:
                self._forget(number)
        self._fence = max(self._fence, frame.fence)

    def _on_turn(self, turn: Turn, frame: Frame) -> None:
        match frame:
            case Audio():
                self._on_audio(turn, frame)
            case TurnMayEnd():
                self._on_may_end(turn, frame)
            case SpeechResumed():
                self._settle(turn, frame.attempt)
                if turn.final is None and not turn.ended:
                    turn.caption(SpeechGoesOn())

    def _on_audio(self, turn: Turn, frame: Audio) -> None:
        turn.audio.add(frame.first_sample, frame.pcm)
        pcm = turn.audio.take_part()
        if pcm:
            part = Part()
            turn.parts.append(part)
            part.task = self._port.spawn(self._decode_part(part, pcm), f"stt part {turn.turn}.{len(turn.parts)}")
            turn.caption(PartTaken(turn.audio.taken))
        if turn.captions is not None:
            turn.captions.hear(frame.pcm)

    def _on_may_end(self, turn: Turn, frame: TurnMayEnd) -> None:
        if frame.attempt <= turn.settled:
            return
        # An attempt follows another only when speech resumed, whether SpeechResumed has arrived or not.
        self._settle(turn, frame.attempt - 1)
        final = turn.final = turn.final or self._final(turn, frame.attempt)
        if final.task is not None:
            return
        turn.caption(FinalAsked())
        pcm = turn.audio.until(frame.last_sample)
        final.task = self._port.spawn(self._decode_final(turn, final, pcm), f"stt final {turn.turn}.{frame.attempt}")

    def _on_ended(self, turn: Turn, frame: TurnEnded) -> None:
        turn.ended = frame.attempt
        turn.caption(FinalAsked())
        self._settle(turn, frame.attempt - 1)
        if frame.attempt <= turn.settled:
            self._forget_if_over(turn)
        elif turn.final is None:
            # Its TurnMayEnd is still on the way, behind the audio. The turn must not wait for it for ever.
            turn.final = self._final(turn, frame.attempt)

    def _final(self, turn: Turn, attempt: int) -> Final:
        final = Final(attempt, self._port.now_ms())
        final.timer = self._port.call_later(self._deadline_ms, lambda: self._on_late(turn, final))
        return final

    def _on_late(self, turn: Turn, final: Final) -> None:
        final.stop()
        self._answer(turn, final, NO_PIECE, [EngineTimeoutError(f"no transcript within {self._deadline_ms} ms")])

    def _settle(self, turn: Turn, attempt: int) -> None:
        """Attempts up to ``attempt`` need no final any more."""
        turn.settled = max(turn.settled, attempt)
        if turn.final is not None and turn.final.attempt <= turn.settled:
            turn.final.stop()
            turn.final = None

    def _forget_if_over(self, turn: Turn) -> None:
        if turn.ended and turn.ended <= turn.settled and self._turns.get(turn.turn) is turn:
            self._forget(turn.turn)

    async def _decode_part(self, part: Part, pcm: bytes) -> None:
        try:
            part.text = (await self._decode(SttRequest(pcm=pcm), self._timeout_ms)).text
        except EngineError as error:
            part.errors.append(error)

    async def _decode_interim(self, request: SttRequest) -> SttPiece:
        return await self._decode(request, self._timeout_ms)

    async def _decode_final(self, turn: Turn, final: Final, pcm: bytes) -> None:
        errors: list[EngineError] = []
        piece = NO_PIECE
        if pcm:
            try:
                piece = await self._decode(SttRequest(pcm=pcm), self._deadline_ms)
            except EngineError as error:
                errors.append(error)
        for part in list(turn.parts):
            await asyncio.wait([part.task])
            errors += part.errors
        if final.timer is not None:
            final.timer.cancel()
        self._answer(turn, final, piece, errors)

    async def _decode(self, request: SttRequest, timeout_ms: int) -> SttPiece:
        """The engine's one answer.

        Raises:
            EngineError: it failed, or gave none.
        """
        async with aclosing(self._client.stream(request, first_timeout_ms=timeout_ms, idle_timeout_ms=timeout_ms)) as pieces:
            async for piece in pieces:
                return piece
        raise EngineError("the speech engine gave no transcript")

    def _answer(self, turn: Turn, final: Final, piece: SttPiece, errors: list[EngineError]) -> None:
        """Send the final of an attempt that has had none: the parts' texts and the rest's, or "" if something of it is missing."""
        turn.final = None
        text = "" if errors else join_texts([*(part.text for part in turn.parts), piece.text])
        send, number, attempt = self._port.send, turn.turn, final.attempt
        final_text = Transcript(
            turn=number, attempt=attempt, text=text, final=True, language=piece.language, sentence_end=piece.sentence_end
        )
        for role in RECEIVERS:
            send(role, final_text)
        if errors:
            send(
                "edge",
                Error(
                    turn=number,
                    attempt=attempt,
                    scope="turn",
                    retryable=errors[0].retryable,
                    text=f"speech recognition: {errors[0]}",
                ),
            )
        waited_ms = float(self._port.now_ms() - final.asked_ms)
        for name, value in (("ttfb_ms", waited_ms), ("processing_ms", waited_ms), ("compute_ms", piece.compute_ns / 1e6)):
            send("edge", Metrics(turn=number, attempt=attempt, segment="stt", name=name, value=value))
        self._settle(turn, final.attempt)
        self._forget_if_over(turn)
