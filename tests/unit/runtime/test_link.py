from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rtvi_actors.errors import ProtocolError, VersionError
from rtvi_actors.frames.codec import FrameDecoder, encode
from rtvi_actors.frames.types import VERSION, Audio, Cancel, Clause, Frame, Hello, LlmText, Ping
from rtvi_actors.runtime.link import BATCH_BYTES, READ_BYTES, Connection, Link
from rtvi_actors.runtime.mailbox import AUDIO_WAITING_SAMPLES, DATA_WAITING_BYTES

pytestmark = pytest.mark.unit

HELLO = Hello(version=VERSION, node="n1", pid=1, name="peer", lane="data", pair="p")


class End:
    """A connection on one end of a socket pair, and the bare socket on the other."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.setblocking(False)
        self.connection = Connection(ours, memoryview(bytearray(READ_BYTES)))
        self.frames: list[Frame] = []
        self.reasons: list[str] = []

    def start(self, lane: Any = "data") -> None:
        self.connection.start(lane, self.frames.append, self.reasons.append)

    def read(self) -> bytes:
        """Everything that has arrived."""
        parts = []
        with contextlib.suppress(BlockingIOError):
            while part := self.socket.recv(1_000_000):
                parts.append(part)
        return b"".join(parts)

    async def read_frames(self, is_enough: Callable[[list[Frame]], Any]) -> list[Frame]:
        """What arrives until it ``is_enough``."""
        decoder, frames = FrameDecoder(), list[Frame]()
        async with asyncio.timeout(10):
            while not is_enough(frames):
                frames += decoder.feed(self.read())
                await asyncio.sleep(0)
        return frames

    async def fill(self) -> None:
        """Send text until the socket is full and the rest waits."""
        while not self.connection.outbox:
            self.connection.send(encode(LlmText("x" * 1_000)))
            await asyncio.sleep(0)


@pytest.fixture
async def end() -> AsyncIterator[End]:
    made = End()
    yield made
    made.connection.close("the test is over")
    made.socket.close()
    assert made.connection._sock.fileno() == -1


class TestHello:
    async def test_what_follows_it_waits_for_start(self, end: End, until: Any) -> None:
        end.socket.send(encode(HELLO) + encode(Clause(0, "a")))
        assert await end.connection.hello() == HELLO
        end.socket.send(encode(Clause(1, "b")))
        end.start()
        await until(lambda: len(end.frames) == 2)
        assert end.frames == [Clause(0, "a"), Clause(1, "b")]

    async def test_in_pieces(self, end: End) -> None:
        data = encode(HELLO)
        end.socket.send(data[:5])
        waiting = asyncio.ensure_future(end.connection.hello())
        await asyncio.sleep(0.01)
        end.socket.send(data[5:])
        assert await waiting == HELLO

    async def test_anything_else_first(self, end: End) -> None:
        end.socket.send(encode(Ping(0)) + encode(HELLO))
        with pytest.raises(ProtocolError, match="Ping, not Hello"):
            await end.connection.hello()

    async def test_another_version(self, end: End) -> None:
        end.socket.send(encode(Hello(version=VERSION + 1, node="n", pid=7, name="new", lane="data", pair="p")))
        with pytest.raises(VersionError, match=rf"new \(pid 7\) speaks version {VERSION + 1}"):
            await end.connection.hello()

    async def test_malformed(self, end: End) -> None:
        end.socket.send(b"\xc1")
        with pytest.raises(ConnectionError, match="malformed"):
            await end.connection.hello()
        assert end.connection.closed

    async def test_hung_up(self, end: End) -> None:
        end.socket.close()
        with pytest.raises(ConnectionError, match="closed"):
            await end.connection.hello()


@pytest.fixture
async def open_end(end: End) -> End:
    end.socket.send(encode(HELLO))
    await end.connection.hello()
    end.start()
    return end


class TestReading:
    async def test_end_of_stream_closes_once(self, open_end: End, until: Any) -> None:
        open_end.socket.send(encode(Clause(0, "last")))
        open_end.socket.close()
        await until(lambda: open_end.reasons)
        open_end.connection.close("again")
        assert open_end.frames == [Clause(0, "last")]
        assert open_end.reasons == ["closed"]

    async def test_unread_bytes_of_ours_make_no_other_end(self, open_end: End, until: Any) -> None:
        open_end.connection.send(encode(Clause(0, "unread")))
        open_end.connection.flush()
        open_end.socket.close()
        await until(lambda: open_end.reasons)
        assert open_end.reasons == ["closed"]

    async def test_a_malformed_stream_closes(self, open_end: End, until: Any) -> None:
        open_end.socket.send(b"\xc1")
        await until(lambda: open_end.reasons)
        assert open_end.reasons[0].startswith("malformed: ")

    async def test_a_close_by_the_receiver_stops_delivery(self, end: End, until: Any) -> None:
        end.socket.send(encode(HELLO))
        await end.connection.hello()

        def close_at_first(frame: Frame) -> None:
            end.frames.append(frame)
            end.connection.close("enough")

        end.connection.start("data", close_at_first, end.reasons.append)
        end.socket.send(encode(Clause(0, "a")) + encode(Clause(1, "b")))
        await until(lambda: end.reasons)
        assert end.frames == [Clause(0, "a")]
        assert end.reasons == ["enough"]


class TestWriting:
    async def test_frames_of_one_turn_of_the_loop_are_one_write(self, open_end: End) -> None:
        frames: list[Frame] = [Clause(n, "x") for n in range(10)]
        for frame in frames:
            open_end.connection.send(encode(frame))
        assert open_end.read() == b""
        await asyncio.sleep(0)
        assert FrameDecoder().feed(open_end.read()) == frames

    async def test_a_large_batch_is_written_at_once(self, open_end: End) -> None:
        open_end.connection.send(bytes(BATCH_BYTES))
        assert len(open_end.read()) == BATCH_BYTES

    async def test_order_holds_through_a_full_socket(self, open_end: End) -> None:
        sent = 0
        for _ in range(40):
            for _ in range(50):
                open_end.connection.send(encode(Clause(sent, "x" * 300)), "s1")
                sent += 1
            await asyncio.sleep(0)
        assert len(open_end.connection.outbox) > 0
        frames = await open_end.read_frames(lambda frames: len(frames) == sent)
        assert [frame.clause for frame in frames if isinstance(frame, Clause)] == list(range(sent))
        assert len(open_end.connection.outbox) == 0

    async def test_after_a_full_socket_it_writes_directly_again(self, open_end: End) -> None:
        await open_end.fill()
        await open_end.read_frames(lambda _: not open_end.connection.outbox)
        open_end.read()
        await asyncio.sleep(0.01)
        open_end.connection.send(encode(Clause(0, "direct")))
        await asyncio.sleep(0)
        assert len(open_end.connection.outbox) == 0
        assert open_end.read().endswith(encode(Clause(0, "direct")))

    async def test_a_frame_larger_than_the_socket_passes(self, open_end: End) -> None:
        big = Audio(0, bytes(1_500_000), session="s1")
        open_end.connection.send(encode(big), "s1", 750_000)
        assert await open_end.read_frames(bool) == [big]

    async def test_what_waits_is_bounded(self, open_end: End) -> None:
        await open_end.fill()
        overflows = [open_end.connection.send(bytes(100_000), "s1") for _ in range(2 * DATA_WAITING_BYTES // 100_000)]
        assert "bytes of data wait" in next(filter(None, overflows))
        for _ in range(1_000):
            open_end.connection.send(bytes(1_024), "s2", 512)
        assert open_end.connection.outbox.dropped_samples == 1_000 * 512 - AUDIO_WAITING_SAMPLES // 512 * 512
        assert open_end.connection.outbox.size_bytes < DATA_WAITING_BYTES + 2 * AUDIO_WAITING_SAMPLES + 100_000

    async def test_close_writes_what_was_sent_before(self, open_end: End) -> None:
        open_end.connection.send(encode(Clause(0, "bye")))
        open_end.connection.close("done")
        assert FrameDecoder().feed(open_end.read()) == [Clause(0, "bye")]

    async def test_sending_to_one_who_is_gone_does_no_harm(self, open_end: End, until: Any) -> None:
        open_end.socket.close()
        open_end.connection.send(encode(Clause(0, "x")))
        open_end.connection.ping(encode(Ping(0)))
        await until(lambda: open_end.reasons)
        open_end.connection.send(encode(Clause(0, "x")))
        open_end.connection.ping(encode(Ping(0)))
        await asyncio.sleep(0)
        assert open_end.reasons == ["closed"]


class TestPing:
    async def test_from_a_thread_while_the_loop_does_nothing(self, open_end: End) -> None:
        thread = threading.Thread(target=open_end.connection.ping, args=[encode(Ping(7))])
        thread.start()
        thread.join()
        assert FrameDecoder().feed(open_end.read()) == [Ping(7)]

    async def test_many_for_a_reader_that_is_stopped_take_no_memory(self, open_end: End) -> None:
        await open_end.fill()
        waiting = len(open_end.connection._pending)
        for n in range(1_000):
            open_end.connection.ping(encode(Ping(n)))
        assert len(open_end.connection._pending) == waiting

    async def test_pings_of_a_thread_never_tear_a_frame(self, open_end: End) -> None:
        ping_bytes, stop = encode(Ping(1)), threading.Event()

        def ping() -> None:
            while not stop.is_set():
                open_end.connection.ping(ping_bytes)

        # With so little room most writes are cut short, which is where another thread could get in between.
        open_end.connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        encoded = [encode(Clause(n, "x" * 3_000)) for n in range(500)]
        thread = threading.Thread(target=ping)
        thread.start()
        try:
            for start in range(0, len(encoded), 50):
                for data in encoded[start : start + 50]:
                    open_end.connection.send(data, "s1")
                await asyncio.sleep(0)
            frames = await open_end.read_frames(lambda frames: sum(type(frame) is Clause for frame in frames) == 500)
        finally:
            stop.set()
            thread.join()
        assert [frame.clause for frame in frames if isinstance(frame, Clause)] == list(range(500))
        assert any(type(frame) is Ping for frame in frames)

    async def test_the_rest_of_a_full_socket_is_written_by_the_loop(self, open_end: End, until: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                open_end.connection._sock.send(encode(Clause(0, "y" * 1_000)))
        open_end.connection.ping(encode(Ping(5)))
        assert await open_end.read_frames(lambda frames: frames and frames[-1] == Ping(5))


class TestLink:
    async def test_lanes_stamps_and_counts(self, end: End, until: Any) -> None:
        control, data = end, End()
        for each in (control, data):
            each.socket.send(encode(HELLO))
            await each.connection.hello()
        received: list[tuple[str, Frame]] = []
        downs: list[str] = []
        link = Link(
            HELLO,
            control.connection,
            data.connection,
            lambda peer, frame: received.append((peer, frame)),
            lambda _, reason: downs.append(reason),
        )
        link.start()
        overflows: list[tuple[str, str]] = []

        assert link.send(Cancel(3, "x", session="s1"), lambda *what: overflows.append(what))
        assert link.send(Clause(0, "x", session="s1"), lambda *what: overflows.append(what))
        [cancel] = await control.read_frames(bool)
        [clause] = await data.read_frames(bool)
        assert isinstance(cancel, Cancel)
        assert isinstance(clause, Clause)
        assert 0 < cancel.sent_ns <= clause.sent_ns
        assert link.frames_out == 2

        control.socket.send(encode(Ping(42)) + encode(Cancel(1, "y")))
        await until(lambda: received)
        assert received == [("peer", Cancel(1, "y"))]
        assert (link.frames_in, link.peer_lag_ms) == (1, 42)

        data.socket.close()
        await until(lambda: downs)
        assert downs == ["closed"]
        assert control.connection.closed
        assert overflows == []

    async def test_overflow_names_session_and_peer(self, open_end: End) -> None:
        link = Link(HELLO, open_end.connection, open_end.connection, lambda *_: None, lambda *_: None)
        await open_end.fill()
        overflows: list[tuple[str, str]] = []
        frame = LlmText("x" * 1_000_000, session="s1")
        while link.send(frame, lambda *what: overflows.append(what)):
            pass
        assert overflows == [("s1", f"more than {DATA_WAITING_BYTES} bytes of data wait for peer")]
