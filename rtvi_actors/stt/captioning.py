"""The interims of one turn: the rules of :mod:`~rtvi_actors.stt.interims`, carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rtvi_actors.errors import EngineError
from rtvi_actors.runtime.port import StagePort
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.stt.interims import Answered, Ask, Event, Failed, Heard, Interims, Tell, Withdraw
from rtvi_actors.stt.segments import TurnAudio, loudness

Decode = Callable[[SttRequest], Awaitable[SttPiece]]
"""The engine's one answer; raises EngineError."""


class Captioning:
    """Asks for the interims of one turn and tells its words. One request at a time; one that fails is only missed.

    ``tell`` gets the words so far and their language, each time that they changed.
    """

    def __init__(
        self, port: StagePort, audio: TurnAudio, interim_ms: int, decode: Decode, tell: Callable[[str, str], None]
    ) -> None:
        self._port = port
        self._audio = audio
        self._interims = Interims(interim_ms)
        self._decode = decode
        self._tell = tell
        self._asked: asyncio.Task[None] | None = None

    def hear(self, pcm: bytes) -> None:
        """``pcm`` is the newest piece of the turn's audio, which has it already."""
        self.step(Heard(self._audio.length, loudness(pcm)))

    def step(self, event: Event) -> None:
        """Take one event."""
        for command in self._interims.handle(event, self._port.now_ms()):
            match command:
                case Ask(first, last):
                    pcm = self._audio.between(first, last)
                    self._asked = self._port.spawn(self._ask(pcm), "stt interim")
                case Withdraw():
                    self.stop()
                case Tell(text, language):
                    self._tell(text, language)

    def stop(self) -> None:
        """Withdraw what was asked for."""
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None

    async def _ask(self, pcm: bytes) -> None:
        try:
            piece = await self._decode(SttRequest(pcm=pcm, final=False))
        except EngineError:
            self.step(Failed())  # the final will fail too, and tell
        else:
            self.step(Answered(piece.text, piece.language))
