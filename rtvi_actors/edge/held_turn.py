"""A turn as the join keeps it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

from rtvi_actors.edge.playout import Grant
from rtvi_actors.frames.types import AudioEnded, BotAudio, Clause, LlmEnded, LlmStarted, LlmText, Marks

AnswerFrame: TypeAlias = LlmStarted | LlmText | LlmEnded | Clause | BotAudio | Marks | AudioEnded


@dataclass(slots=True, eq=False)
class HeldTurn:
    """What is known of a turn that is not over, and what of its answer is held."""

    number: int
    source: str = ""
    reopens: int = 0
    """The turn that the user goes on with in this one; 0 for none."""
    hidden: bool = False
    """Opened under the bot's speech, and no Cancel came yet."""
    told: bool = False
    """Its user-started was sent."""
    attempt: int = 0
    partial: str = ""
    """The latest words that are not final."""
    final: str | None = None
    """The transcript of ``attempt``."""
    ended: int | None = None
    """The attempt that TurnEnded named."""
    joined: bool = False
    paused: bool = False
    held: list[AnswerFrame] = field(default_factory=list)
    """The answer before the join."""
    answering: bool = False
    clauses: set[int] = field(default_factory=set)
    audio: deque[BotAudio | Marks | AudioEnded] = field(default_factory=deque)
    """Of clauses that are not here yet."""


def credit_of(frames: list[AnswerFrame]) -> list[Grant]:
    """Give back the credit of frames that are used up, or will not be."""
    audio = sum(len(frame.pcm) for frame in frames if isinstance(frame, BotAudio))
    text = sum(len(frame.text.encode()) for frame in frames if isinstance(frame, LlmText))
    outputs: list[Grant] = []
    if audio:
        outputs.append(Grant("tts", "bot_audio", audio))
    if text:
        outputs.append(Grant("llm", "text", text))
    return outputs
