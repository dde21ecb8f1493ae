"""Text to speech: what a backend fulfils and what travels to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

SAMPLE_RATE_HZ = 24_000
"""All backends deliver this rate: they resample as they stream."""


class TtsRequest(Struct, frozen=True, array_like=True):
    """One clause to speak. ``text`` has 1 to 400 characters."""

    text: str
    voice: str = ""
    speed: float = 1.0
    reserve_ms: int = 0
    """How long what the session said before goes on playing: so much later is the first sound wanted."""


class TtsPiece(Struct, frozen=True, array_like=True):
    """A piece of its audio, as soon as the vocoder has it. ``pcm``: PCM16 LE mono, 24 kHz, any even number of bytes."""

    pcm: bytes
    compute_ns: int
    """The model's work on this request so far."""
    marks: list[tuple[int, int]] = []
    """``(sample, char)`` pairs of the whole clause, both rising, with its first piece, if the model tells the times of words.

    Samples count from the beginning of the clause's audio as it is delivered, characters in the request's ``text``: with ``sample``
    samples, all characters before ``char`` are said. So one at each word's end, and perhaps one at its beginning.
    """
    queue_ns: int = 0


class TtsBackend(Protocol):
    """A voice. One object in one process serves many sessions."""

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

    def stream(self, session: str, request: TtsRequest) -> AsyncIterator[TtsPiece]:
        """Speak. Text without anything to say (white space, emoji) gives no piece.

        Closing the iterator stops the model after the piece that it is working on.

        Raises:
            EngineError: this request failed; the others go on.
        """

    def close(self) -> None:
        """Stop the threads."""
