"""What of a conversation fits into a prompt. Pure; what a message costs is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rtvi_actors.llm.context import GAP, cut_middle
from rtvi_actors.llm.engine import ChatMessage

DROP_MESSAGES = 8
"""Old messages are left out in blocks of so many: in between, the beginning of the prompt stays, and what a model keeps of it."""
HISTORY_SHARE = 0.75
"""Part of the context that what comes before the last message may fill."""

_MARKS_TOKENS = 5
"""What surrounds a message: its role, its end."""

Cost = Callable[[str, str], int]
"""Role and content of a message -> its tokens, a little too many rather than too few."""


class Fitting:
    """Leaves out what is too much. ``context_tokens``: longest prompt."""

    def __init__(self, context_tokens: int, cost: Cost) -> None:
        self._context_tokens = context_tokens
        self._cost = cost

    def fit(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """What of ``messages`` makes a prompt of at most ``context_tokens``.

        The oldest are left out first, in blocks; never the instructions nor the last one, which loses its middle if it is too long
        by itself.
        """
        instructions, rest = split(messages)
        history, last = self.fit_history(instructions, rest[:-1]), rest[-1:]
        while history and self._count([*instructions, *history, *last]) > self._context_tokens:
            del history[0]
        while last and not history and (over := self._count([*instructions, *last]) - self._context_tokens) > 0:
            role, text = last[0].role, last[0].content
            # In proportion, since a token has four characters of English and an emoji four tokens; and a little less, so this ends.
            share = 1 - over / self._cost(role, text)
            shorter = cut_middle(text, max(int(len(text) * share * 0.95) - len(GAP), 0))
            if len(shorter) >= len(text):
                break
            last = [ChatMessage(role, shorter)]
        return [*instructions, *history, *last]

    def fit_history(self, instructions: list[ChatMessage], history: Sequence[ChatMessage]) -> list[ChatMessage]:
        """What of ``history`` may come before a last message."""
        room = self._context_tokens * HISTORY_SHARE
        dropped = 0
        while dropped < len(history) and self._count([*instructions, *history[dropped:]]) > room:
            dropped += DROP_MESSAGES
        return list(history[dropped:])

    def _count(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of the prompt, by its messages: a little too many, never too few, for templates that repeat nothing."""
        return sum(self._cost(message.role, message.content) for message in messages) + self._cost("assistant", "")


def split(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[ChatMessage]]:
    """The instructions, and the rest."""
    count = 1 if messages and messages[0].role == "system" else 0
    return list(messages[:count]), list(messages[count:])


def estimated_cost(role: str, content: str) -> int:
    """Tokens of a message for a model whose tokenizer is not known.

    English has four bytes or so to a token, code and names less; of other scripts a character has three, and is about a token.
    """
    return len(content.encode()) // 3 + _MARKS_TOKENS
