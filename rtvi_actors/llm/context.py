"""What the model is told of the conversation: the instructions, what the user said, and what the user *heard*. Pure.

An answer enters only as far as it was heard; one of which nothing was heard does not enter. Messages are kept in the order of their
turns, whenever their frames came. The oldest turns are forgotten first, the instructions never.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from rtvi_actors.frames.snapshot import Said
from rtvi_actors.llm.engine import ChatMessage

MAX_MESSAGES = 64
"""Messages kept besides the instructions."""
MAX_CHARS = 24_000
"""Characters kept besides the instructions."""
MAX_MESSAGE_CHARS = 12_000
"""Of a longer message the middle is left out."""
FORGET_MESSAGES = 16
"""So many are forgotten at once: a model that keeps what it computed for the beginning of the context loses it each time."""

GAP = " … "
"""Stands where the middle of a message was left out."""
CUT_OFF = "..."
"""Stands in the prompt behind an answer that was interrupted. Of "[interrupted]" a small model begins to say such things itself."""


@dataclass(order=True, slots=True)
class Message:
    """One message. ``interrupted``: the answer went on, but the user did not hear it; ``text`` is what was heard, no more."""

    turn: int
    rank: int
    """Inside a turn: what the user said (0), then the answer (1)."""
    role: str = field(compare=False)
    text: str = field(compare=False)
    interrupted: bool = field(compare=False, default=False)

    def shown(self) -> str:
        """The message as the model is shown it."""
        if not self.interrupted:
            return self.text
        return f"{self.text} {CUT_OFF}" if self.text.endswith((".", "!", "?")) else self.text.rstrip(",;: \u2013\u2014-") + CUT_OFF


class Context:
    """The conversation of one session."""

    def __init__(self, instructions: str, max_messages: int = MAX_MESSAGES, max_chars: int = MAX_CHARS) -> None:
        self.instructions = instructions
        self._max_messages = max_messages
        self._max_chars = max_chars
        self._messages: list[Message] = []

    @property
    def history(self) -> tuple[Message, ...]:
        """What is kept, in order, without the instructions."""
        return tuple(self._messages)

    def append_user(self, turn: int, text: str) -> None:
        """The user's message of ``turn``. White space alone is nothing."""
        self._append(Message(turn, 0, "user", text.strip()))

    def withdraw_user(self, turn: int) -> None:
        """Take back the user's message of ``turn``: a later one has its words."""
        self._messages = [message for message in self._messages if (message.turn, message.rank) != (turn, 0)]

    def append_note(self, text: str) -> None:
        """A message of the user's that is not answered: it stands behind everything that is there."""
        turn = self._messages[-1].turn if self._messages else 0
        self._append(Message(turn, 1, "user", text.strip()))

    def append_heard(self, turn: int, clauses: Sequence[str], clause: int, char: int, interrupted: bool) -> None:
        """The answer of ``turn`` as far as it was heard: all ``clauses`` before ``clause``, and ``char`` characters of it."""
        self._append(Message(turn, 1, "assistant", heard_text(clauses, clause, char), interrupted))

    def told(self) -> list[Said]:
        """All of it, for another actor that goes on with the session."""
        return [Said(message.turn, message.rank, message.role, message.text, message.interrupted) for message in self._messages]

    def take_over(self, conversation: Sequence[Said]) -> None:
        """Go on with what another actor remembered."""
        for said in conversation:
            self._append(Message(said.turn, said.rank, said.role, said.text, said.interrupted))

    def replace(self, messages: Sequence[tuple[str, str]]) -> None:
        """The conversation so far is ``messages`` (role and text: system, user, assistant). System texts are the instructions."""
        instructions = [text for role, text in messages if role == "system"]
        if instructions:
            self.instructions = "\n".join(instructions)
        # One turn for each, before the one that comes next, so that the oldest can be forgotten first.
        said = [(role, text) for role, text in messages if role != "system"]
        behind = self._messages[-1].turn if self._messages else 0
        self._messages = []
        for place, (role, text) in enumerate(said, behind + 1 - len(said)):
            self._append(Message(place, 1, role, text.strip()))

    def messages(self, turn: int = 0, user_text: str = "") -> list[ChatMessage]:
        """The prompt. With ``user_text``: as if that had been said in ``turn``, without keeping it. If it is kept, once.

        Roles alternate, as chat templates demand it: messages of one role in a row become one.
        """
        messages = list(self._messages)
        if user_text.strip() and not any(message.turn == turn and message.rank == 0 for message in messages):
            insort(messages, Message(turn, 0, "user", _bounded(user_text.strip())))
        prompt = [ChatMessage("system", self.instructions)] if self.instructions else []
        for message in messages:
            last = prompt[-1] if prompt else None
            if last is not None and last.role == message.role:
                prompt[-1] = ChatMessage(message.role, f"{last.content}\n{message.shown()}")
            else:
                prompt.append(ChatMessage(message.role, message.shown()))
        return prompt

    def _append(self, message: Message) -> None:
        if message.text:
            message.text = _bounded(message.text)
            insort(self._messages, message)
            self._forget()

    def _forget(self) -> None:
        """Let go of the oldest turns that are too many."""
        while len(self._messages) > self._max_messages or self._chars() > self._max_chars:
            oldest = max(min(FORGET_MESSAGES, len(self._messages) - 1), 1)
            # A turn goes as a whole: an answer without its question says nothing.
            turn = self._messages[oldest - 1].turn
            kept = [message for message in self._messages[oldest:] if message.turn != turn]
            self._messages = kept or self._messages[-1:]
            if len(self._messages) == 1:
                return

    def _chars(self) -> int:
        return sum(len(message.text) for message in self._messages)


def heard_text(clauses: Sequence[str], clause: int, char: int) -> str:
    """What of ``clauses`` was heard, up to the end of a whole word; "" for no whole word."""
    whole = "".join(clauses[:clause])
    last = clauses[clause] if clause < len(clauses) else ""
    part = last[:char]
    if char < len(last) and part and not part[-1].isspace() and (last[char].isalnum() or last[char] in "'\u2019"):
        # In mid-word: that word was not heard.
        part = part[: len(part) - len(part.split()[-1])]
    return (whole + part).strip()


def cut_middle(text: str, keep_chars: int) -> str:
    """``text`` with ``keep_chars`` characters of it: two thirds from its beginning, the rest from its end."""
    if len(text) <= keep_chars:
        return text
    tail = keep_chars // 3
    return text[: keep_chars - tail].rstrip() + GAP + text[len(text) - tail :].lstrip()


def _bounded(text: str) -> str:
    return cut_middle(text, MAX_MESSAGE_CHARS)
