from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import EngineError
from rtvi_actors.llm.sse import SseEvents

pytestmark = pytest.mark.unit

BODY = (
    b"\xef\xbb\xbfdata: {}\n\n"
    b": a comment\r\n\r\nevent: x\rid: 7\rdata: \xe2\x82\xac\r\r\n"
    b"data:one\r\ndata: two\ndata\n\n\n\n"
    b"data:  x\n\nretry: 3\n\n"
)
EVENTS = [b"{}", "\u20ac".encode(), b"one\ntwo\n", b" x"]


def events_of(chunks: list[bytes]) -> list[bytes]:
    parser = SseEvents()
    return [event for chunk in chunks for event in parser.push(chunk)]


def test_the_data_of_events() -> None:
    assert events_of([BODY]) == EVENTS


@pytest.mark.parametrize("at", range(len(BODY)))
def test_cut_at_every_byte(at: int) -> None:
    assert events_of([BODY[:at], BODY[at:]]) == EVENTS


def test_byte_by_byte() -> None:
    assert events_of([BODY[at : at + 1] for at in range(len(BODY))]) == EVENTS


@given(st.lists(st.sampled_from([b"data: a", b"data", b"\n", b"\r", b"\r\n", b":", b"x", b""]), max_size=12), st.data())
def test_cuts_change_nothing(parts: list[bytes], data: st.DataObject) -> None:
    body = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    chunks = [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert events_of(chunks) == events_of([body])


def test_an_event_comes_with_its_last_byte() -> None:
    parser = SseEvents()
    assert parser.push(b"data: a\n") == []
    assert parser.push(b"\n") == [b"a"]


@pytest.mark.parametrize("line", [b"x" * 101, b"data: 123\n" * 12, b"data: " + b"x" * 100], ids=["a line", "many lines", "data"])
def test_memory_is_bounded(line: bytes) -> None:
    parser = SseEvents(max_event_bytes=100)

    def push_in_pieces() -> None:
        for at in range(0, len(line), 10):
            parser.push(line[at : at + 10])

    with pytest.raises(EngineError, match="more than 100 bytes"):
        push_in_pieces()
