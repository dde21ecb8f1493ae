"""Language models: what a backend fulfils and what travels to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct


class ChatMessage(Struct, frozen=True, array_like=True):
    """``role``: system, user or assistant."""

    role: str
    content: str


class LlmRequest(Struct, frozen=True, array_like=True):
    """An answer to give. ``messages``: the whole context, instructions first; the backend drops the oldest turns that do not fit
    its ``context_tokens``, never the instructions nor the last message.
    """

    messages: list[ChatMessage]
    max_tokens: int
    temperature: float = 0.0


class LlmPiece(Struct, frozen=True, array_like=True):
    """A piece of the answer, as soon as the model has it. The last one has a ``finish_reason``: stop or length."""

    text: str
    compute_ns: int
    """The model's work on this request so far (wall time of its steps, prefill included)."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ns: int = 0


class LlmBackend(Protocol):
    """A language model. One object in one process serves many sessions."""

    @property
    def memory_bytes(self) -> int:
        """What the loaded weights take on the device."""

    def load(self) -> None:
        """Load the weights. Called once, in a thread.

        Raises:
            ModelMissingError: the files are not there.
        """

    def warm_up(self) -> None:
        """Run once what a first request would otherwise pay for."""

    def stream(self, session: str, request: LlmRequest) -> AsyncIterator[LlmPiece]:
        """Answer, piece by piece. ``session`` may be used to keep that session's key-value cache.

        Closing the iterator stops the model within one decoding step.

        Raises:
            EngineError: this request failed; the others go on.
        """

    def forget(self, session: str) -> None:
        """The session ended: drop what is kept for it."""

    def close(self) -> None:
        """Stop the threads."""
