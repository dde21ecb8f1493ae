"""Frames of four stages, in any order over their links, to one ordered conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtvi_actors.edge.playout import Grant, Heard, PlayoutEvent
from rtvi_actors.frames.types import Frame
from rtvi_actors.rtvi.events import Event


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

    def handle(self, event: Frame | Typed | Heard) -> list[Output]:
        """Take one frame from a stage, a typed text, or the playout's word that a turn is over. Others give nothing."""
        return []
