from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import ProtocolError
from rtvi_actors.frames import snapshot
from rtvi_actors.frames.snapshot import Said, Snapshot

pytestmark = pytest.mark.unit

SAID = st.builds(Said, st.integers(0, 9), st.integers(0, 1), st.sampled_from(["user", "assistant"]), st.text(), st.booleans())


@given(st.builds(Snapshot, st.integers(0, 2**53), st.booleans(), st.lists(SAID)))
def test_there_and_back(taken: Snapshot) -> None:
    assert snapshot.decode(snapshot.encode(taken)) == taken
    assert snapshot.decode_conversation(snapshot.encode_conversation(taken.conversation)) == taken.conversation


def test_none_is_a_new_session() -> None:
    assert snapshot.decode(b"") == Snapshot(0, False, [])
    assert snapshot.decode_conversation(b"") == []


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_as_such(data: bytes) -> None:
    for decode in (snapshot.decode, snapshot.decode_conversation):
        try:
            decode(data)
        except ProtocolError:
            continue


@pytest.mark.parametrize("turn", [-1, 2**53 + 1])
def test_a_turn_that_cannot_be(turn: int) -> None:
    data = msgspec.msgpack.encode({"turn": turn, "started": True, "conversation": []})
    with pytest.raises(ProtocolError, match=f"turn {turn}"):
        snapshot.decode(data)
