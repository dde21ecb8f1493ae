"""What the edge tells the translators: the conversation as a client should see it, already in order and committed.

``edge/join.py`` makes most of them out of frames, ``edge/playout.py`` the ones about sound. ``translate`` turns them into RTVI
messages. Nothing here is speculative except :class:`UserText` with ``final`` False.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class UserStarted:
    """The user speaks. For a turn opened under the bot's speech: only at its Cancel."""

    turn: int


@dataclass(frozen=True, slots=True)
class UserStopped:
    """The user's speech of ``turn`` is over. Always after its UserStarted, exactly once."""

    turn: int


@dataclass(frozen=True, slots=True)
class UserText:
    """What the user said. ``final`` once for a turn that has words, after UserStopped."""

    turn: int
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class UserTyped:
    """What the user typed; ``message_id`` of the send-text."""

    text: str
    message_id: str


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """The model answers ``user_text``. ``said``: it is a text of the application's instead (session.say), no model runs."""

    turn: int
    user_text: str
    said: bool = False


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of the answer, white space kept."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerClause:
    """A clause of the answer is complete. ``spoken``: whether audio is made of it."""

    turn: int
    clause: int
    text: str
    spoken: bool


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The answer's text is complete, or was cut off by an interruption."""

    turn: int


@dataclass(frozen=True, slots=True)
class TtsStarted:
    """The first audio of the turn came from the TTS stage."""

    turn: int


@dataclass(frozen=True, slots=True)
class TtsStopped:
    """The last clause of the turn was sent, or the turn was interrupted. Always after its TtsStarted, exactly once."""

    turn: int


@dataclass(frozen=True, slots=True)
class BotStarted:
    """The first sound of the turn is sent now."""

    turn: int


@dataclass(frozen=True, slots=True)
class WordsSpoken:
    """The last sound of the words ``text[start:end]`` of the clause was sent. Only for voices that tell the times of words."""

    turn: int
    clause: int
    text: str
    start: int
    """Where the words before these ended; 0 for the first ones."""
    end: int


@dataclass(frozen=True, slots=True)
class ClauseSpoken:
    """The last sound of the clause was sent. ``start``: how far its WordsSpoken went; 0 if there were none."""

    turn: int
    clause: int
    text: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class ClauseSkipped:
    """No sound could be made of a clause that was to be spoken; the user only reads it."""

    turn: int
    clause: int
    text: str


@dataclass(frozen=True, slots=True)
class BotStopped:
    """The last sound of the turn was played by the client, or it was interrupted. Always after its BotStarted, exactly once."""

    turn: int


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The bot's ``turn`` is cancelled, by speech or by text."""

    turn: int


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """The latency of a turn, once its first sound was sent. ``segments_ms``: name -> ms, in order, adding up to ``total_ms``.

    Without segments it only carries services: those that were known after the first sound, or of a turn without one.

    ``services``: (processor, figure, value) with figure ttfb_ms, processing_ms, characters, prompt_tokens, completion_tokens.
    ``own_share_ms``: total less the endpointing wait less the engines' compute inside the segments.
    """

    turn: int
    total_ms: float
    segments_ms: dict[str, float]
    own_share_ms: float
    services: list[tuple[str, str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something went wrong. ``fatal`` only when the session ends with it."""

    text: str
    fatal: bool


Event: TypeAlias = (
    UserStarted
    | UserStopped
    | UserText
    | UserTyped
    | AnswerStarted
    | AnswerText
    | AnswerClause
    | AnswerEnded
    | TtsStarted
    | TtsStopped
    | BotStarted
    | WordsSpoken
    | ClauseSpoken
    | ClauseSkipped
    | BotStopped
    | Interrupted
    | TurnFigures
    | Failure
)
