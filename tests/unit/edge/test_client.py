"""The stream to one client: order, bound, what a cancelled turn takes back."""

from __future__ import annotations

import asyncio

import pytest

from rtvi_actors.edge.client import ClientGoneError, Outbox

pytestmark = pytest.mark.unit


class Sink:
    def __init__(self) -> None:
        self.got: list[bytes | str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gone = False

    async def send_bytes(self, data: bytes) -> None:
        await self.open.wait()
        if self.gone:
            raise ClientGoneError
        self.got.append(data)

    async def send_text(self, text: str) -> None:
        await self.open.wait()
        self.got.append(text)

    async def close(self, code: int, reason: str) -> None:
        raise AssertionError("an outbox closes nothing")


class Overflow:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_everything_is_written_in_order_until_it_is_finished() -> None:
    outbox, sink = Outbox(100, Overflow()), Sink()
    outbox.put(b"1")
    writing = asyncio.create_task(outbox.write_to(sink))
    await asyncio.sleep(0)
    outbox.put(b"2", audio_of=1)
    outbox.put(b"3")
    outbox.finish()
    outbox.put(b"4")
    await asyncio.wait_for(writing, 1)
    assert sink.got == [b"1", b"2", b"3"]
    assert outbox.waiting_bytes == 0


async def test_text_leaves_as_text_and_counts_by_its_bytes() -> None:
    outbox, sink = Outbox(10, Overflow()), Sink()
    outbox.put("é€", audio_of=1)
    outbox.put("x")
    assert outbox.waiting_bytes == 6
    outbox.drop_audio(2)
    assert outbox.waiting_bytes == 1
    outbox.put("\U0001f600")
    outbox.finish()
    await asyncio.wait_for(outbox.write_to(sink), 1)
    assert sink.got == ["x", "\U0001f600"]
    assert outbox.waiting_bytes == 0


async def test_what_is_being_sent_counts_as_waiting() -> None:
    sink, overflow = Sink(), Overflow()
    outbox = Outbox(10, overflow)
    sink.open.clear()
    writing = asyncio.create_task(outbox.write_to(sink))
    outbox.put(bytes(6))
    await asyncio.sleep(0)
    outbox.put(bytes(4))
    assert (outbox.waiting_bytes, overflow.count) == (10, 0)
    outbox.put(b"1")
    assert overflow.count == 1
    outbox.put(b"2")
    assert overflow.count == 1
    sink.open.set()
    await asyncio.wait_for(writing, 1)
    assert sink.got == [bytes(6)]
    assert outbox.waiting_bytes == 0


async def test_only_audio_of_cancelled_turns_is_taken_back() -> None:
    outbox, sink = Outbox(100, Overflow()), Sink()
    for data, turn in [(b"message", 0), (b"old", 1), (b"older", 2), (b"new", 3), (b"more", 0)]:
        outbox.put(data, audio_of=turn)
    outbox.drop_audio(3)
    assert outbox.waiting_bytes == len(b"message" + b"new" + b"more")
    outbox.finish()
    await outbox.write_to(sink)
    assert sink.got == [b"message", b"new", b"more"]


async def test_a_broken_connection_is_told_to_the_writer_only() -> None:
    outbox, sink = Outbox(100, Overflow()), Sink()
    sink.gone = True
    outbox.put(b"1")
    with pytest.raises(ClientGoneError):
        await outbox.write_to(sink)
