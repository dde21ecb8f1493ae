"""Which beginnings of prompts a model keeps computed, where it can keep them only whole and forgets only all at once. Pure.

CTranslate2 keeps the state of a *static prompt*. It costs memory until the model is loaded anew, and cannot be extended. So the
beginning that a session's next prompt will have is computed while nobody waits, if that saves enough; and when the memory is full,
everything is forgotten and the next one computed first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prime:
    """Compute ``tokens``; forget everything before, if ``forget``."""

    session: str
    tokens: Tokens
    forget: bool


class Prefixes:
    """What is kept, and what would be worth keeping.

    Args:
        max_tokens: Most tokens that are kept in all.
        min_gain_tokens: A beginning is worth computing if it is longer by so many than one that is kept.
    """

    def __init__(self, max_tokens: int, min_gain_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._min_gain_tokens = min_gain_tokens
        self._kept: set[Tokens] = set()
        self._wanted: OrderedDict[str, Tokens] = OrderedDict()

    @property
    def kept_tokens(self) -> int:
        """Tokens that are kept in all."""
        return sum(map(len, self._kept))

    def longest(self, prompt: Sequence[str]) -> Tokens:
        """The longest beginning of ``prompt`` that is kept and leaves at least one token; () if there is none."""
        fitting = (kept for kept in self._kept if len(kept) < len(prompt) and tuple(prompt[: len(kept)]) == kept)
        return max(fitting, key=len, default=())

    def want(self, session: str, tokens: Sequence[str]) -> None:
        """The session's next prompt will probably begin with ``tokens``."""
        self._wanted[session] = tuple(tokens)
        self._wanted.move_to_end(session)

    def forget(self, session: str) -> None:
        """The session ended."""
        self._wanted.pop(session, None)

    def next(self) -> Prime | None:
        """What to compute now, the newest wish first; None if nothing is worth it.

        While the wishes of all sessions would fill more than half of the memory, nothing is: they would only drive each other out.
        """
        if sum(map(len, self._wanted.values())) > self._max_tokens // 2:
            return None
        for session, tokens in reversed(self._wanted.items()):
            if tokens not in self._kept and len(tokens) - len(self.longest(tokens)) >= self._min_gain_tokens:
                return Prime(session, tokens, forget=self.kept_tokens + len(tokens) > self._max_tokens)
        return None

    def primed(self, prime: Prime) -> None:
        """It was computed."""
        if prime.forget:
            self._kept.clear()
        self._kept.add(prime.tokens)
