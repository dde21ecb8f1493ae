"""The WebSocket wire of RTVI clients: one protobuf ``pipecat.Frame`` in each binary message, both ways.

:func:`decode` turns a message into a value and never raises; :func:`encode_audio` and :func:`encode_message` make messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from rtvi_actors.edge.frames_pb2 import AudioRawFrame, Frame, MessageFrame
from rtvi_actors.edge.limits import Problem

TEXT_FRAME = Problem("text-frame", "Text frame dropped: this socket carries protobuf in binary frames.")
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
