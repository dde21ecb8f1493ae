"""What :class:`~rtvi_actors.llm.turns.TurnTable` knows of one turn."""

from __future__ import annotations

from dataclasses import dataclass

from rtvi_actors.llm.turn_commands import Heard


@dataclass(slots=True)
class TurnRecord:
    """What is known of one turn."""

    turn: int
    started: bool = False
    source: str = ""
    under_bot: bool = False
    reopens: int = 0
    reopened: bool = False
    """A later turn has its words."""
    audio: bool = True
    attempt: int = 0
    """The newest attempt whose words are there; 0 for none."""
    text: str = ""
    void_through: int = 0
    """Attempts up to this one were resumed over."""
    ended: int = 0
    """The attempt that the user's part ended with; 0 while it is open."""
    begun: int = 0
    """The attempt that is being answered, or was; 0 for none."""
    committed: bool = False
    void: bool = False
    """It comes to nothing."""
    played: bool = False
    """What was heard of its answer is known, or it has none."""
    heard: Heard | None = None
    """It, where the edge made the join, and the answer was over, before the commit here."""
    cancelled_ms: int = -1
    wanted_ms: int = -1
    """Since when it could begin, were it not for an earlier answer."""

    @property
    def is_heard_out(self) -> bool:
        """Whether the user's part is over and its words are there."""
        return 0 < self.ended == self.attempt

    @property
    def owes_words(self) -> bool:
        """Whether the user said something that is in no message yet."""
        said = self.ended > 0 or self.source == "text"
        return said and not (self.void or self.committed or self.reopened)
