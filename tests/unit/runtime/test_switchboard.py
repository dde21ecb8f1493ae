from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.config import runtime_folder
from rtvi_actors.errors import ConfigError
from rtvi_actors.frames.codec import FrameDecoder, encode
from rtvi_actors.frames.types import VERSION, Audio, Cancel, Clause, Detach, Frame, Hello, LlmText, Ping
from rtvi_actors.runtime import connector, switchboard
from rtvi_actors.runtime.connector import MAX_GREETING
from rtvi_actors.runtime.mailbox import AUDIO_WAITING_SAMPLES, DATA_WAITING_BYTES
from rtvi_actors.runtime.switchboard import Switchboard

pytestmark = pytest.mark.unit

CHILD = """
import asyncio, sys, time
from rtvi_actors.frames.types import Cancel
from rtvi_actors.runtime.switchboard import Switchboard

def on_frame(peer, frame):
    if isinstance(frame, Cancel) and frame.reason == "block":
        time.sleep(frame.fence / 1_000)
    board.send(peer, frame)

async def main():
    global board
    board = Switchboard("child", sys.argv[1], node="n1", on_frame=on_frame, on_peer=lambda *what: None)
    await board.open()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    made = runtime_folder()
    yield made
    assert os.listdir(made) == []
    made.rmdir()


class Board:
    """A switchboard and what it told."""

    def __init__(self, folder: Path, name: str) -> None:
        self.frames: list[Frame] = []
        self.told: list[tuple[str, bool, str]] = []
        self.overflows: list[tuple[str, str]] = []
        self.on_frame: Callable[[str, Frame], None] = lambda _, frame: self.frames.append(frame)
        self.links = Switchboard(
            name,
            str(folder / f"{name}.sock"),
            node=f"node of {name}",
            on_frame=self._on_frame,
            on_peer=lambda peer, up, reason: self.told.append((peer, up, reason)),
            on_overflow=lambda session, reason: self.overflows.append((session, reason)),
        )

    def _on_frame(self, peer: str, frame: Frame) -> None:
        self.on_frame(peer, frame)

    @property
    def clauses(self) -> list[int]:
        return [frame.clause for frame in self.frames if isinstance(frame, Clause)]


StartBoard = Callable[[str], Any]


@pytest.fixture
async def start_board(folder: Path) -> AsyncIterator[StartBoard]:
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Board:
            board = Board(folder, name)
            await board.links.open()
            stack.push_async_callback(board.links.close)
            return board

        yield start


@pytest.fixture
async def ab(start_board: StartBoard) -> tuple[Board, Board]:
    """Two boards, a having dialled b."""
    a, b = await start_board("a"), await start_board("b")
    a.links.dial("b", b.links.path)
    await a.links.wait_connected(["b"], 5)
    await b.links.wait_connected(["a"], 5)
    return a, b


class Stranger:
    """Bare sockets that speak the protocol, or not, to the board at ``path``."""

    def __init__(self, path: str, name: str = "stranger") -> None:
        self.pair = secrets.token_hex(4)
        self.name = name
        self.sockets: dict[str, socket.socket] = {}
        for lane in ("control", "data"):
            self.sockets[lane] = socket.socket(socket.AF_UNIX)
            self.sockets[lane].connect(path)
            self.sockets[lane].setblocking(False)

    def greet(self, *lanes: str, version: int = VERSION) -> None:
        for lane in lanes or ("control", "data"):
            hello = Hello(version=version, node="n", pid=7, name=self.name, lane=lane, pair=self.pair)
            self.sockets[lane].send(encode(hello))

    async def read(self, lane: str, is_enough: Callable[[list[Frame]], Any]) -> list[Frame]:
        """Frames but pings of ``lane``, until ``is_enough``; pings the board meanwhile."""
        decoder, frames = FrameDecoder(), list[Frame]()
        async with asyncio.timeout(20):
            while not is_enough(frames):
                with suppress(BlockingIOError):
                    frames += [frame for frame in decoder.feed(self.sockets[lane].recv(100_000)) if not isinstance(frame, Ping)]
                self.ping()
                await asyncio.sleep(0)
        return frames

    def ping(self) -> None:
        self.sockets["control"].send(encode(Ping(0)))

    async def hung_up(self, lane: str) -> bool:
        async with asyncio.timeout(10):
            while True:
                try:
                    if not self.sockets[lane].recv(100_000):
                        return True
                except BlockingIOError:
                    await asyncio.sleep(0.005)

    def close(self) -> None:
        for each in self.sockets.values():
            each.close()


@pytest.fixture
async def call(start_board: StartBoard) -> AsyncIterator[Callable[..., Stranger]]:
    strangers: list[Stranger] = []

    def make(board: Board, name: str = "stranger") -> Stranger:
        strangers.append(Stranger(board.links.path, name))
        return strangers[-1]

    yield make
    for each in strangers:
        each.close()


class Child:
    """A process with a switchboard named ``child``, which sends every frame back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen([sys.executable, "-c", CHILD, str(path)])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def child(folder: Path) -> Iterator[Child]:
    made = Child(folder / "child.sock")
    yield made
    made.kill()
    made.path.unlink(missing_ok=True)


def block_loop(ms: int) -> None:
    """Keep the event loop from running, as a bot's or a library's code might."""
    end = time.monotonic() + ms / 1_000
    while time.monotonic() < end:
        threading.Event().wait(0.01)


class TestFrames:
    async def test_order_per_lane_both_ways(self, ab: tuple[Board, Board], until: Any) -> None:
        a, b = ab
        for n in range(2_000):
            assert a.links.send("b", Clause(n, "x" * 50, session=f"s{n % 3}"))
            assert b.links.send("a", Cancel(n, "x"))
            if n % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(b.frames) == 2_000 and len(a.frames) == 2_000)
        assert b.clauses == list(range(2_000))
        assert [frame.fence for frame in a.frames if isinstance(frame, Cancel)] == list(range(2_000))
        stamps = [frame.sent_ns for frame in b.frames]
        assert stamps == sorted(stamps)
        assert stamps[0] > 0

    async def test_other_header_values_arrive_as_the_sender_set_them(self, ab: tuple[Board, Board], until: Any) -> None:
        a, b = ab
        a.links.send("b", Clause(0, "x", session="s1", epoch=2, turn=3, attempt=4, seq=5))
        await until(lambda: b.frames)
        [frame] = b.frames
        assert (frame.session, frame.epoch, frame.turn, frame.attempt, frame.seq) == ("s1", 2, 3, 4, 5)

    async def test_an_exception_of_the_receiver_is_logged_and_the_link_stays(
        self, ab: tuple[Board, Board], until: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = ab

        def refuse_first(_: str, frame: Frame) -> None:
            b.frames.append(frame)
            if len(b.frames) == 1:
                raise RuntimeError("a stage's fault")

        b.on_frame = refuse_first
        a.links.send("b", Clause(0, "x", session="s1"))
        a.links.send("b", Clause(1, "x", session="s1"))
        await until(lambda: len(b.frames) == 2)
        assert b.clauses == [0, 1]
        assert b.links.connected("a")
        assert "Clause frame of session 's1' from a" in caplog.text
        assert "a stage's fault" in caplog.text

    async def test_to_an_absent_peer(self, start_board: StartBoard) -> None:
        a = await start_board("a")
        assert not a.links.send("nobody", Cancel(1, "x"))
        assert a.links.unsent_frames == 1

    async def test_a_frame_that_cannot_be_encoded_harms_nothing(self, ab: tuple[Board, Board], until: Any) -> None:
        a, b = ab
        with pytest.raises(ValueError, match=r"Clause\.clause"):
            a.links.send("b", Clause(-1, "x"))
        a.links.send("b", Clause(1, "x"))
        await until(lambda: b.frames)
        assert b.clauses == [1]

    async def test_stats(self, ab: tuple[Board, Board], until: Any) -> None:
        a, b = ab
        b.links.send("a", Cancel(1, "x"))
        await until(lambda: a.frames)
        stats = a.links.peers()["b"]
        assert (stats.pid, stats.node) == (os.getpid(), "node of b")
        assert (stats.frames_in, stats.frames_out, stats.waiting_frames, stats.waiting_bytes) == (1, 0, 0, 0)
        assert b.links.peers()["a"].frames_out == 1
        assert a.links.loop_lag_ms >= 0


class TestPeers:
    async def test_a_peer_may_come_later(self, start_board: StartBoard, folder: Path) -> None:
        a = await start_board("a")
        a.links.dial("b", str(folder / "b.sock"))
        await asyncio.sleep(0.01)
        assert not a.links.connected("b")
        await start_board("b")
        await a.links.wait_connected(["b"], 5)
        assert a.told == [("b", True, "connected")]

    async def test_a_restarted_peer_is_dialled_again(self, ab: tuple[Board, Board], start_board: StartBoard, until: Any) -> None:
        a, b = ab
        await b.links.close()
        await until(lambda: not a.links.connected("b"))
        again = await start_board("b")
        await a.links.wait_connected(["b"], 5)
        assert a.told == [("b", True, "connected"), ("b", False, "closed"), ("b", True, "connected")]
        a.links.send("b", Clause(0, "x"))
        await until(lambda: again.frames)

    async def test_a_restarted_dialler_replaces_its_older_link(
        self, start_board: StartBoard, call: Callable[..., Stranger], until: Any
    ) -> None:
        b = await start_board("b")
        for _ in range(2):
            latest = call(b, "a")
            latest.greet()
            await latest.read("control", bool)
        assert b.told == [("a", True, "connected"), ("a", False, "replaced by a new link"), ("a", True, "connected")]
        b.links.send("a", Cancel(5, "x"))
        [cancel] = await latest.read("control", bool)
        assert isinstance(cancel, Cancel)

    async def test_undial_closes_and_stays_closed(self, ab: tuple[Board, Board], until: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(switchboard, "REDIAL_S", 0.01)
        a, b = ab
        a.links.undial("b")
        await until(lambda: not b.links.connected("a"))
        await asyncio.sleep(0.05)
        assert not a.links.connected("b")
        assert a.told == [("b", True, "connected"), ("b", False, "undialled")]
        assert b.told == [("a", True, "connected"), ("a", False, "closed")]
        a.links.undial("b")

    async def test_undial_leaves_a_link_that_the_peer_dialled(self, ab: tuple[Board, Board]) -> None:
        _, b = ab
        b.links.undial("a")
        assert b.links.connected("a")

    async def test_waiting_names_who_is_missing(self, ab: tuple[Board, Board]) -> None:
        a, _ = ab
        with pytest.raises(TimeoutError, match=r"no link from a to c, d within 0.01 s"):
            await a.links.wait_connected(["b", "c", "d"], 0.01)

    async def test_sending_from_inside_on_peer(self, start_board: StartBoard, until: Any) -> None:
        a, b = await start_board("a"), await start_board("b")
        for board in (a, b):
            board.links._on_peer = lambda peer, up, _, links=board.links: up and links.send(peer, Cancel(1, "first"))
        a.links.dial("b", b.links.path)
        await until(lambda: a.frames and b.frames)
        assert len(a.frames) == len(b.frames) == 1

    async def test_an_exception_of_on_peer_is_logged_and_the_link_works(
        self, start_board: StartBoard, until: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = await start_board("a"), await start_board("b")
        b.links._on_peer = lambda *_: 1 / 0  # type: ignore[assignment]
        a.links.dial("b", b.links.path)
        await a.links.wait_connected(["b"], 5)
        a.links.send("b", Clause(3, "x"))
        await until(lambda: b.frames)
        assert "ZeroDivisionError" in caplog.text


class TestStrangers:
    @pytest.fixture
    def b(self, start_board: StartBoard) -> Any:
        return start_board("b")

    async def test_a_good_one_becomes_a_peer(self, b: Any, call: Callable[..., Stranger], until: Any) -> None:
        board: Board = await b
        stranger = call(board)
        stranger.greet("data", "control")
        await until(lambda: board.links.connected("stranger"))
        [hello] = await stranger.read("data", bool)
        assert isinstance(hello, Hello)
        assert (hello.name, hello.lane, hello.pair, hello.pid) == ("b", "data", stranger.pair, os.getpid())

    async def test_no_answer_before_both_are_there(self, b: Any, call: Callable[..., Stranger], monkeypatch: Any) -> None:
        monkeypatch.setattr(connector, "HELLO_TIMEOUT_S", 0.1)
        board: Board = await b
        stranger = call(board)
        stranger.greet("control")
        assert await stranger.hung_up("control")
        assert await stranger.hung_up("data")
        assert board.told == []

    async def test_another_version_is_refused(
        self, b: Any, call: Callable[..., Stranger], caplog: pytest.LogCaptureFixture
    ) -> None:
        stranger = call(await b)
        stranger.greet(version=VERSION + 1)
        assert await stranger.hung_up("control")
        assert f"speaks version {VERSION + 1} of the links, we {VERSION}" in caplog.text

    @pytest.mark.parametrize(
        "first", [encode(Cancel(1, "x")), b"\xc1", b"GET / HTTP/1.1\r\n\r\n"], ids=["frame", "reserved", "http"]
    )
    async def test_anything_but_hello_is_refused(self, b: Any, call: Callable[..., Stranger], first: bytes) -> None:
        board: Board = await b
        stranger = call(board)
        stranger.sockets["control"].send(first)
        assert await stranger.hung_up("control")
        assert board.told == []

    async def test_one_lane_twice_is_refused(self, b: Any, call: Callable[..., Stranger], monkeypatch: Any) -> None:
        monkeypatch.setattr(connector, "HELLO_TIMEOUT_S", 0.2)
        board: Board = await b
        one, other = call(board), call(board)
        other.pair = one.pair
        one.greet("data")
        other.greet("data")
        assert await one.hung_up("data")
        assert await other.hung_up("data")
        assert board.told == []

    async def test_too_many_who_say_nothing(self, b: Any, call: Callable[..., Stranger], until: Any) -> None:
        board: Board = await b
        for _ in range(MAX_GREETING // 2):
            call(board)
            await asyncio.sleep(0)
        await until(lambda: len(board.links._connector._greeting) == MAX_GREETING)
        late = call(board)
        assert await late.hung_up("control")
        assert await late.hung_up("data")

    async def test_malformed_bytes_close_the_link(self, b: Any, call: Callable[..., Stranger], until: Any) -> None:
        board: Board = await b
        stranger = call(board)
        stranger.greet()
        await until(lambda: board.links.connected("stranger"))
        stranger.sockets["data"].send(encode(Clause(0, "x")))
        await until(lambda: board.frames)
        stranger.sockets["data"].send(b"\xc1")
        assert await stranger.hung_up("control")
        assert board.clauses == [0]
        [_, (peer, up, reason)] = board.told
        assert (peer, up) == ("stranger", False)
        assert reason.startswith("malformed: ")

    async def test_unknown_kinds_are_counted(self, b: Any, call: Callable[..., Stranger], until: Any) -> None:
        board: Board = await b
        stranger = call(board)
        stranger.greet()
        await until(lambda: board.links.connected("stranger"))
        stranger.sockets["data"].send(b"\x91\xcd\x7f\xff" + encode(Clause(0, "x")))
        await until(lambda: board.frames)
        assert board.links.peers()["stranger"].unknown_frames == 1

    async def test_another_name_than_the_dialled_one(
        self, ab: tuple[Board, Board], until: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        a, b = ab
        a.links.dial("c", b.links.path)
        await until(lambda: "cannot reach c" in caplog.text)
        assert "'b' answers there" in caplog.text
        assert not a.links.connected("c")


class TestSilence:
    async def test_a_silent_peer_is_dead(self, start_board: StartBoard, call: Callable[..., Stranger], until: Any) -> None:
        b = await start_board("b")
        stranger = call(b)
        stranger.greet()
        assert await stranger.hung_up("control")
        assert b.told == [("stranger", True, "connected"), ("stranger", False, "silent for 1 s")]

    async def test_a_stall_of_our_own_kills_no_healthy_peer(
        self, start_board: StartBoard, call: Callable[..., Stranger], child: Child, until: Any
    ) -> None:
        b = await start_board("b")
        b.links.dial("child", str(child.path))
        await b.links.wait_connected(["child"], 20)
        dead = call(b)
        dead.greet()
        await until(lambda: b.links.connected("stranger"))
        # The worst place: in the turn of the loop in which the silent are looked for, so that no socket is read in between.
        due = b.links._heartbeat._timer.when()
        loop = asyncio.get_running_loop()
        loop.call_at(due - 0.02, block_loop, 40)
        loop.call_at(due - 0.01, block_loop, 1_600)
        await until(lambda: b.links.loop_lag_ms >= 1_000)
        await until(lambda: not b.links.connected("stranger"))
        assert b.links.connected("child")
        assert [each for each in b.told if not each[1]] == [("stranger", False, "silent for 1 s")]

    async def test_a_pause_of_the_whole_machine_kills_nobody(self, start_board: StartBoard, child: Child, until: Any) -> None:
        a = await start_board("a")
        a.links.dial("child", str(child.path))
        await a.links.wait_connected(["child"], 20)
        child.process.send_signal(signal.SIGSTOP)
        block_loop(1_600)
        # Its next heartbeat comes only some ticks of ours later.
        asyncio.get_running_loop().call_later(0.4, child.process.send_signal, signal.SIGCONT)
        paused_ns = time.monotonic_ns()
        await until(lambda: a.links.peers()["child"].ping_age_ms < (time.monotonic_ns() - paused_ns) / 1e6)
        assert a.told == [("child", True, "connected")]

    async def test_a_blocked_peer_lives_and_tells_its_growing_lag(self, start_board: StartBoard, child: Child, until: Any) -> None:
        a = await start_board("a")
        a.links.dial("child", str(child.path))
        await a.links.wait_connected(["child"], 20)
        a.links.send("child", Cancel(2_500, "block"))
        lags = [0]

        def growing() -> bool:
            lag = a.links.peers()["child"].loop_lag_ms
            if lag > lags[-1] + 100:
                lags.append(lag)
            return len(a.frames) == 1

        await until(growing)
        assert len(lags) >= 5
        assert lags[-1] > 1_500
        assert a.told == [("child", True, "connected")]
        await until(lambda: a.links.peers()["child"].loop_lag_ms < 250)

    async def test_a_frozen_process_is_found_and_comes_back(self, start_board: StartBoard, child: Child, until: Any) -> None:
        a = await start_board("a")
        a.links.dial("child", str(child.path))
        await a.links.wait_connected(["child"], 20)
        child.process.send_signal(signal.SIGSTOP)
        await until(lambda: not a.links.connected("child"))
        child.process.send_signal(signal.SIGCONT)
        await a.links.wait_connected(["child"], 20)
        assert a.told == [("child", True, "connected"), ("child", False, "silent for 1 s"), ("child", True, "connected")]

    async def test_a_killed_process_is_found_by_the_end_of_its_stream(
        self, start_board: StartBoard, child: Child, until: Any
    ) -> None:
        a = await start_board("a")
        a.links.dial("child", str(child.path))
        await a.links.wait_connected(["child"], 20)
        child.kill()
        await until(lambda: not a.links.connected("child"))
        assert a.told[-1] == ("child", False, "closed")


class TestFlood:
    async def test_a_reader_that_is_stopped_costs_bounded_memory_and_control_passes(
        self, start_board: StartBoard, call: Callable[..., Stranger], until: Any
    ) -> None:
        b = await start_board("b")
        stranger = call(b)
        stranger.greet()
        await until(lambda: b.links.connected("stranger"))
        text = LlmText("x" * 10_000, session="flood")
        audio = Audio(0, bytes(1_024), session="talk")
        for _ in range(1_200):
            b.links.send("stranger", text)
            b.links.send("stranger", audio)
        stats = b.links.peers()["stranger"]
        assert stats.waiting_bytes < DATA_WAITING_BYTES + 3 * AUDIO_WAITING_SAMPLES
        assert stats.dropped_samples > 0
        assert {session for session, _ in b.overflows} == {"flood"}

        b.links.send("stranger", Cancel(9, "barge-in", session="talk"))
        [cancel] = [frame for frame in await stranger.read("control", lambda frames: len(frames) == 2) if isinstance(frame, Cancel)]
        assert cancel.fence == 9
        assert b.links.peers()["stranger"].waiting_bytes > 0

        b.links.send("stranger", Clause(1, "last", session="talk"))
        frames = await stranger.read("data", lambda frames: any(isinstance(frame, Clause) for frame in frames))
        assert sum(isinstance(frame, Audio) for frame in frames) >= AUDIO_WAITING_SAMPLES // 512

    async def test_a_slow_peer_does_not_hold_up_another(
        self, start_board: StartBoard, ab: tuple[Board, Board], call: Callable[..., Stranger], until: Any
    ) -> None:
        a, b = ab
        stranger = call(a)
        stranger.greet()
        await until(lambda: a.links.connected("stranger"))
        for _ in range(300):
            a.links.send("stranger", LlmText("x" * 10_000, session="flood"))
        assert a.links.peers()["stranger"].waiting_frames > 0
        a.links.send("b", Clause(0, "x"))
        await until(lambda: b.frames)
        assert a.links.peers()["stranger"].waiting_frames > 0


class TestOpenAndClose:
    async def test_nothing_is_left(self, folder: Path, until: Any) -> None:
        await asyncio.to_thread(os.getpid)  # The loop's own threads and descriptors are there from now on.
        threads, tasks = threading.active_count(), asyncio.all_tasks()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            a, b = Board(folder, "a"), Board(folder, "b")
            await a.links.open()
            await b.links.open()
            a.links.dial("b", b.links.path)
            a.links.dial("nobody", str(folder / "nobody.sock"))
            await a.links.wait_connected(["b"], 5)
            halfway = Stranger(b.links.path)
            halfway.greet("control")
            await asyncio.sleep(0.01)
            unseen = Stranger(b.links.path)
            await a.links.close()
            await b.links.close()
            halfway.close()
            unseen.close()
        assert threading.active_count() == threads
        assert asyncio.all_tasks() == tasks
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert os.listdir(folder) == []

    async def test_what_was_sent_before_close_arrives(self, ab: tuple[Board, Board], until: Any) -> None:
        a, b = ab
        a.links.send("b", Clause(0, "x"))
        a.links.send("b", Detach("bye"))
        await a.links.close()
        await until(lambda: not b.links.connected("a"))
        assert {type(frame) for frame in b.frames} == {Clause, Detach}
        assert a.told == [("b", True, "connected")]
        assert not a.links.send("b", Clause(1, "x"))

    async def test_close_twice_or_unopened(self, start_board: StartBoard, folder: Path) -> None:
        a = await start_board("a")
        await a.links.close()
        await a.links.close()
        await Board(folder, "never").links.close()

    async def test_the_folder_is_made_private(self, folder: Path) -> None:
        board = Board(folder / "new", "a")
        await board.links.open()
        assert stat.S_IMODE((folder / "new").stat().st_mode) == 0o700
        await board.links.close()
        (folder / "new").rmdir()

    async def test_a_folder_that_others_may_enter_is_refused(self, folder: Path) -> None:
        (folder / "open").mkdir(mode=0o755)
        with pytest.raises(ConfigError, match="mode 0700"):
            await Board(folder / "open", "a").links.open()
        (folder / "open").rmdir()

    async def test_a_path_that_is_no_socket_is_refused(self, folder: Path) -> None:
        (folder / "a.sock").write_text("precious")
        with pytest.raises(ConfigError, match="is no socket"):
            await Board(folder, "a").links.open()
        assert (folder / "a.sock").read_text() == "precious"
        (folder / "a.sock").unlink()

    async def test_a_path_too_long_is_refused(self, start_board: StartBoard, folder: Path) -> None:
        a = await start_board("a")
        with pytest.raises(ConfigError, match="107 are possible"):
            a.links.dial("b", str(folder / ("x" * 100)))
        with pytest.raises(ConfigError, match="107 are possible"):
            await Board(folder, "x" * 100).links.open()

    async def test_the_file_of_a_dead_process_is_replaced(self, folder: Path) -> None:
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(folder / "a.sock"))
        left.close()
        board = Board(folder, "a")
        await board.links.open()
        await board.links.close()

    async def test_the_file_of_a_successor_is_left(self, folder: Path) -> None:
        first, second = Board(folder, "a"), Board(folder, "a")
        await first.links.open()
        await second.links.open()
        await first.links.close()
        assert os.listdir(folder) == ["a.sock"]
        await second.links.close()


async def test_links_that_come_and_go_are_logged(ab: tuple[Board, Board], until: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    a, b = ab
    await b.links.close()
    await until(lambda: not a.links.connected("b"))
    assert "a: link to b is down: closed" in caplog.text


class TestMovedPeer:
    async def test_the_old_link_serves_until_the_new_one_is_up(self, start_board: StartBoard, folder: Path, until: Any) -> None:
        a, old = await start_board("a"), await start_board("b")
        a.links.dial("b", old.links.path)
        await a.links.wait_connected(["b"], 5)
        elsewhere = str(folder / "elsewhere.sock")
        a.links.dial("b", elsewhere)
        with pytest.raises(TimeoutError, match="no link from a to b"):
            await a.links.wait_connected(["b"], 0.3)
        assert a.links.connected("b")
        assert a.links.send("b", Clause(1, "old", session="s"))
        await until(lambda: old.clauses == [1])

        frames: list[Frame] = []
        new = Switchboard("b", elsewhere, node="n", on_frame=lambda _, frame: frames.append(frame), on_peer=lambda *_: None)
        await new.open()
        try:
            await a.links.wait_connected(["b"], 5)
            # Whoever hears that the old link is gone can send already.
            assert [up for _, up, _ in a.told] == [True, False, True]
            assert a.links.send("b", Clause(2, "new", session="s"))
            await until(lambda: frames)
            assert old.clauses == [1]
        finally:
            await new.close()
