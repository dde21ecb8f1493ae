"""What of a session another stage group needs to go on with it: where the turns are, and the conversation as it was heard. Pure.

The LLM stage tells the edge the conversation (:class:`~rtvi_actors.frames.types.Remembered`) whenever it has changed; the edge adds
what it knows itself and sends it along with Attach.
"""

from __future__ import annotations

import msgspec

from rtvi_actors.errors import ProtocolError

MAX_TURN = 2**53


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One message of the conversation. ``rank``: inside a turn, what the user said (0) and then the answer (1)."""

    turn: int
    rank: int
    role: str
    text: str
    interrupted: bool = False


class Snapshot(msgspec.Struct, frozen=True):
    """A session at rest. ``turn``: the newest that has begun; ``started``: its client was ready, so the bot has begun."""

    turn: int
    started: bool
    conversation: list[Said]


def encode(snapshot: Snapshot) -> bytes:
    """For Attach."""
    return msgspec.msgpack.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """The inverse of :func:`encode`; of b"", a new session.

    Raises:
        ProtocolError: it is none.
    """
    if not data:
        return Snapshot(0, False, [])
    try:
        snapshot = msgspec.msgpack.decode(data, type=Snapshot)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a snapshot that is none: {error}") from None
    if not 0 <= snapshot.turn <= MAX_TURN:
        raise ProtocolError(f"a snapshot of turn {snapshot.turn}")
    return snapshot


def encode_conversation(conversation: list[Said]) -> bytes:
    """For Remembered."""
    return msgspec.msgpack.encode(conversation)


def decode_conversation(data: bytes) -> list[Said]:
    """The inverse of :func:`encode_conversation`; b"" is none yet.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return msgspec.msgpack.decode(data, type=list[Said]) if data else []
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a conversation that is none: {error}") from None
