"""What :class:`~rtvi_actors.llm.turns.TurnTable` asks for: one small dataclass each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Commit:
    """The user's message of ``turn`` is settled: it is kept, and what is answered to it counts. Comes before or after Begin."""

    turn: int
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The user's message of ``turn`` is none any more: the one of a later turn will have its words."""

    turn: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Answer ``text``. ``committed`` False: on trial."""

    turn: int
    attempt: int
    text: str
    source: str
    audio: bool
    committed: bool


@dataclass(frozen=True, slots=True)
class Say:
    """Say the application's text that asked for a turn as ``request``."""

    turn: int
    request: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the answer of ``turn``, if one runs: nothing more of it may leave."""

    turn: int


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer of ``turn`` is over for the user, who heard all clauses before ``clause`` and ``char`` characters of it."""

    turn: int
    clause: int
    char: int


@dataclass(frozen=True, slots=True)
class Note:
    """A text that is only remembered."""

    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A typed text that is neither answered nor remembered: too many wait for their turn."""

    text: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call :meth:`TurnTable.wake` at ``at_ms``."""

    at_ms: int


Command: TypeAlias = Commit | Withdraw | Begin | Say | Stop | Heard | Note | Lost | WakeAt
