"""The JSON wire: one RTVI message in each text message, both ways. Pipecat's evaluation harness speaks it.

The user's audio comes as raw-audio messages, base64 inside; the bot's goes out as eval-bot-audio messages, if it was asked for.
"""

from __future__ import annotations

import base64

from rtvi_actors.edge.limits import Problem
from rtvi_actors.edge.wire import Incoming, MessageIn
from rtvi_actors.rtvi.messages import Message, to_json

_BINARY_FRAME = Problem("binary-frame", "Binary frame dropped: this connection began with JSON in text frames, and goes on so.")


class JsonWire:
    """Fulfils :class:`~rtvi_actors.edge.wire.Wire`. Carries no audio out before :meth:`carry_audio`."""

    def __init__(self) -> None:
        self._audio_out = False

    def decode(self, data: bytes | str) -> Incoming:
        """See :class:`Wire`. Audio is a message like the others here; whether it is well-formed, the message's reader says."""
        return MessageIn(data) if isinstance(data, str) else _BINARY_FRAME

    def encode_message(self, text: str) -> str:
        """See :class:`Wire`."""
        return text

    def encode_audio(self, pcm: bytes, rate_hz: int) -> str | None:
        """See :class:`Wire`."""
        if not self._audio_out:
            return None
        return to_json(Message("eval-bot-audio", {"audio": base64.b64encode(pcm).decode(), "sampleRate": rate_hz}))

    def carry_audio(self) -> None:
        """See :class:`Wire`."""
        self._audio_out = True
