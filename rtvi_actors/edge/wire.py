"""What travels on a client's socket: :class:`Wire`, and that of Pipecat's clients, a protobuf ``pipecat.Frame`` per message.

:func:`decode` turns a message into a value and never raises; :func:`encode_audio` and :func:`encode_message` make messages.
``json_wire.py`` has the other wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from google.protobuf.message import DecodeError

from rtvi_actors.edge.frames_pb2 import AudioRawFrame, Frame, MessageFrame
from rtvi_actors.edge.limits import Problem

_TEXT_FRAME = Problem("text-frame", "Text frame dropped: this connection began with protobuf in binary frames, and goes on so.")
_MALFORMED = Problem("malformed", "Binary frame dropped: not a valid pipecat.Frame.")
_EMPTY = Problem("empty", "Binary frame dropped: it carries no frame that is known here.")


@dataclass(frozen=True, slots=True)
class AudioIn:
    """A piece of audio: PCM16 LE, ``channels`` interleaved, as the sender labelled it. Nothing of it is checked yet."""

    pcm: bytes
    rate_hz: int
    channels: int


@dataclass(frozen=True, slots=True)
class MessageIn:
    """The JSON text of one RTVI message, not yet parsed."""

    text: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A well-formed frame that means nothing in this direction (text, transcription, interruption)."""

    kind: str


Incoming: TypeAlias = AudioIn | MessageIn | Ignored | Problem


class Wire(Protocol):
    """One form in which a connection carries RTVI, in both directions. Binary messages are bytes, text messages str."""

    def decode(self, data: bytes | str) -> Incoming:
        """Read one message of the client's. What cannot be read, or is of the other kind, comes back as a Problem."""

    def encode_message(self, text: str) -> bytes | str:
        """Build the message that carries the JSON ``text`` of an RTVI message."""

    def encode_audio(self, pcm: bytes, rate_hz: int) -> bytes | str | None:
        """Build the message that carries ``pcm`` (PCM16 LE mono). None: this connection gets no audio."""

    def carry_audio(self) -> None:
        """The client wants to hear the bot. Changes nothing on a wire that carries its audio anyway."""


class ProtobufWire:
    """The wire of Pipecat's clients. Fulfils :class:`Wire`."""

    def decode(self, data: bytes | str) -> Incoming:
        """See :class:`Wire`."""
        return _TEXT_FRAME if isinstance(data, str) else decode(data)

    def encode_message(self, text: str) -> bytes:
        """See :class:`Wire`."""
        return encode_message(text)

    def encode_audio(self, pcm: bytes, rate_hz: int) -> bytes:
        """See :class:`Wire`."""
        return encode_audio(pcm, rate_hz)

    def carry_audio(self) -> None:
        """It always does."""


def decode(data: bytes) -> Incoming:
    """Read one binary message. What cannot be read comes back as a Problem."""
    try:
        frame = Frame.FromString(data)
    except DecodeError:
        return _MALFORMED
    kind = frame.WhichOneof("frame")
    if kind == "audio":
        audio = frame.audio
        return AudioIn(audio.audio, audio.sample_rate, audio.num_channels)
    if kind == "message":
        return MessageIn(frame.message.data)
    return Ignored(kind) if kind else _EMPTY


def encode_audio(pcm: bytes, rate_hz: int, channels: int = 1) -> bytes:
    """Build the message that carries ``pcm`` (PCM16 LE)."""
    return Frame(audio=AudioRawFrame(name="audio", audio=pcm, sample_rate=rate_hz, num_channels=channels)).SerializeToString()


def encode_message(text: str) -> bytes:
    """Build the message that carries the JSON ``text`` of an RTVI message."""
    return Frame(message=MessageFrame(data=text)).SerializeToString()
