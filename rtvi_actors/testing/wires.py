"""The client's end of the two wires (``edge.wire.Wire`` is the server's)."""

from __future__ import annotations

import base64
import json
from typing import Literal, Protocol, TypeAlias

from rtvi_actors.edge import wire
from rtvi_actors.edge.wire import AudioIn, MessageIn

WireName: TypeAlias = Literal["protobuf", "json"]


class ClientWire(Protocol):
    """How one client writes and reads. Binary messages are bytes, text messages str."""

    def encode_message(self, text: str) -> bytes | str:
        """Build the message that carries the JSON ``text`` of an RTVI message."""

    def encode_audio(self, pcm: bytes, rate_hz: int) -> bytes | str:
        """Build the message that carries ``pcm`` (PCM16 LE mono)."""

    def decode(self, data: bytes | str) -> AudioIn | MessageIn | None:
        """Read a message of the server's; None for one that is nothing to this client."""


class ProtobufClientWire:
    """What the JavaScript client speaks. Fulfils :class:`ClientWire`."""

    def encode_message(self, text: str) -> bytes:
        """See :class:`ClientWire`."""
        return wire.encode_message(text)

    def encode_audio(self, pcm: bytes, rate_hz: int) -> bytes:
        """See :class:`ClientWire`."""
        return wire.encode_audio(pcm, rate_hz)

    def decode(self, data: bytes | str) -> AudioIn | MessageIn | None:
        """See :class:`ClientWire`."""
        incoming = wire.decode(data) if isinstance(data, bytes) else None
        return incoming if isinstance(incoming, AudioIn | MessageIn) else None


class JsonClientWire:
    """What Pipecat's evaluation harness speaks. Fulfils :class:`ClientWire`."""

    def __init__(self) -> None:
        self._pieces = 0

    def encode_message(self, text: str) -> str:
        """See :class:`ClientWire`."""
        return text

    def encode_audio(self, pcm: bytes, rate_hz: int) -> str:
        """See :class:`ClientWire`."""
        self._pieces += 1
        data = {"base64Audio": base64.b64encode(pcm).decode(), "sampleRate": rate_hz, "numChannels": 1}
        return json.dumps({"label": "rtvi-ai", "type": "raw-audio", "id": f"audio-{self._pieces}", "data": data})

    def decode(self, data: bytes | str) -> AudioIn | MessageIn | None:
        """See :class:`ClientWire`."""
        if isinstance(data, bytes):
            return None
        body = json.loads(data)
        if body["type"] == "eval-bot-audio":
            return AudioIn(base64.b64decode(body["data"]["audio"]), body["data"]["sampleRate"], 1)
        return MessageIn(data)


def client_wire(name: WireName) -> ClientWire:
    """A new wire of that name, for one connection."""
    return JsonClientWire() if name == "json" else ProtobufClientWire()
