"""What the STT stage knows of one turn: its audio, and what is being decoded of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rtvi_actors.errors import EngineError
from rtvi_actors.stt.captioning import Captioning
from rtvi_actors.stt.interims import Event
from rtvi_actors.stt.segments import TurnAudio

if TYPE_CHECKING:
    from rtvi_actors.runtime.port import Timer


class Part:
    """A stretch of a long turn that is decoded while the user still talks."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.text = ""
        self.errors: list[EngineError] = []


class Final:
    """The final of one attempt that has not been sent yet."""

    def __init__(self, attempt: int, asked_ms: int) -> None:
        self.attempt = attempt
        self.asked_ms = asked_ms
        self.task: asyncio.Task[None] | None = None
        self.timer: Timer | None = None

    def stop(self) -> None:
        """Withdraw its request, if it has one."""
        if self.task is not None:
            self.task.cancel()
        if self.timer is not None:
            self.timer.cancel()


class Turn:
    """One turn, open or ended, until its final was sent."""

    def __init__(self, turn: int, max_samples: int) -> None:
        self.turn = turn
        self.audio = TurnAudio(max_samples)
        self.parts: list[Part] = []
        self.final: Final | None = None
        self.captions: Captioning | None = None
        self.settled = 0
        """Attempts up to this one are void or have had their final."""
        self.ended = 0
        """The attempt that the turn ended with; 0 while it is open."""

    def caption(self, event: Event) -> None:
        """Tell the turn's captions, if it has any."""
        if self.captions is not None:
            self.captions.step(event)

    def stop(self) -> None:
        """Withdraw everything that is being decoded."""
        if self.final is not None:
            self.final.stop()
            self.final = None
        if self.captions is not None:
            self.captions.stop()
        for part in self.parts:
            part.task.cancel()
