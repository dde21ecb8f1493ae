"""Speech to text: what a backend fulfils and what travels to it.

A backend is any class named ``module:Class`` that fulfils :class:`SttBackend`; it is built as ``Class(config)`` in the engine's
process and never sees a session's stage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

SAMPLE_RATE_HZ = 16_000


class SttRequest(Struct, frozen=True, array_like=True):
    """One utterance to decode. ``pcm``: PCM16 LE mono, 16 kHz, 29 s at most. ``language``: BCP 47, or "" as configured.

    ``final``: its text is kept. If not it is an interim, worth little: it never delays a final, and may be answered with "".
    """

    pcm: bytes
    final: bool = True
    language: str = ""


class SttPiece(Struct, frozen=True, array_like=True):
    """The transcript: exactly one piece for a request. ``text`` may be ""."""

    text: str
    language: str
    compute_ns: int
    """What the model worked for this request; its share, when it was decoded in a batch."""
    queue_ns: int = 0
    sentence_end: float = -1.0
    """How likely the model takes the sentence to end where the text does, 0 to 1, by what it heard and not by the words alone; -1
    where it does not tell."""


class SttBackend(Protocol):
    """A speech model. One object in one process serves many sessions."""

    @property
    def memory_bytes(self) -> int:
        """What the loaded weights take on the device."""

    def load(self) -> None:
        """Load the weights. Called once, in a thread.

        Raises:
            ModelMissingError: the files are not there.
        """

    def warm_up(self) -> None:
        """Run once what a first request would otherwise pay for. Called after load, in a thread."""

    def stream(self, session: str, request: SttRequest) -> AsyncIterator[SttPiece]:
        """Decode. The model runs in a thread or a batch of its own, never on the event loop.

        Closing the iterator (``aclose``, or cancelling the task that reads it) withdraws a request that still waits.

        Raises:
            EngineError: this request failed; the others go on.
        """

    def close(self) -> None:
        """Stop the threads."""
