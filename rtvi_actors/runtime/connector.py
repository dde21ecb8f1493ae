"""How two processes meet: a Unix socket that is listened on or dialled, a Hello each way, two connections joined to a pair.

The dialler opens both connections and says Hello on each. The listener answers when it has both, so that whoever gets an answer
knows that the other side is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
import uuid
from collections.abc import Callable

from rtvi_actors.errors import ConfigError, ProtocolError
from rtvi_actors.frames.codec import encode
from rtvi_actors.frames.types import VERSION, Hello, Lane
from rtvi_actors.runtime.link import READ_BYTES, Connection

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 2.0
"""For both connections of a pair to say who they are."""
MAX_PATH_BYTES = 107
MAX_GREETING = 128
"""Connections that are not joined yet; more are closed at once."""

LANES: tuple[Lane, Lane] = ("control", "data")
Pair = tuple[Hello, Connection, Connection]
"""The peer's Hello, its control connection, its data connection."""


class Connector:
    """Makes pairs of connections. ``on_pair`` gets those that others dialled; :meth:`dial` returns its own."""

    def __init__(self, name: str, node: str, on_pair: Callable[[Hello, Connection, Connection], None]) -> None:
        self._name = name
        self._node = node
        self._on_pair = on_pair
        self._read_buffer = memoryview(bytearray(READ_BYTES))
        self._listener: socket.socket | None = None
        self._path = ""
        self._inode = 0
        self._greeting: set[Connection] = set()
        self._halves: dict[tuple[str, str], _Half] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def listen(self, path: str) -> None:
        """Listen at ``path``. A socket file left there by a dead process is replaced.

        Raises:
            ConfigError: the path is too long, taken by something else, or in a folder that others may enter.
        """
        _prepare(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen(MAX_GREETING)
            self._inode = os.stat(path).st_ino
        except OSError as error:
            listener.close()
            raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error
        self._path = path
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def dial(self, peer: str, path: str) -> Pair:
        """A pair of connections to ``peer``, which listens at ``path``. Cancelling leaves nothing open.

        Raises:
            OSError: nobody listens there, or it hung up.
            ProtocolError: no proper hello of ``peer`` came within its time.
        """
        pair = uuid.uuid4().hex
        connections: list[Connection] = []
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                for lane in LANES:
                    connections.append(self._connect(path))
                    self._say_hello(connections[-1], lane, pair)
                for lane, connection in zip(LANES, connections, strict=True):
                    hello = await connection.hello()
                    if (hello.name, hello.lane, hello.pair) != (peer, lane, pair):
                        raise ProtocolError(f"{hello.name!r} answers there, on {hello.lane!r}")
        except BaseException as error:
            for connection in connections:
                self._hang_up(connection)
            if isinstance(error, TimeoutError):
                raise ProtocolError(f"no hello within {HELLO_TIMEOUT_S} s") from None
            raise
        self._greeting.difference_update(connections)
        return hello, connections[0], connections[1]

    async def close(self) -> None:
        """Listen no more, remove the socket file, hang up on those who are not joined. Pairs already made stay."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            _remove(self._path, self._inode)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._greeting):
            self._hang_up(connection)

    # ------------------------------------------------------------------------------------------------ being dialled

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: a later try may find some.
            log.error("%s cannot accept a connection: %s", self._name, error)
            return
        if len(self._greeting) >= MAX_GREETING:
            sock.close()
            return
        task = asyncio.create_task(self._greet(self._adopt(sock)), name=f"{self._name} greets")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet(self, connection: Connection) -> None:
        """Wait for the hello, then until the other connection of the pair has joined, all within the time for it."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await connection.hello()
                if hello.lane not in LANES or not hello.name or not hello.pair:
                    raise ProtocolError(f"a hello without lane, name or pair: {hello}")
                other = self._halves.pop((hello.name, hello.pair), None)
                if other is None:
                    await self._wait_for_other(_Half(hello, connection))
                else:
                    self._join(other, _Half(hello, connection))
        except (OSError, ProtocolError) as error:
            if connection in self._greeting:
                log.warning("%s refuses a connection: %s", self._name, str(error) or f"no pair within {HELLO_TIMEOUT_S} s")
        finally:
            if connection in self._greeting:
                self._hang_up(connection)

    async def _wait_for_other(self, half: _Half) -> None:
        key = (half.hello.name, half.hello.pair)
        self._halves[key] = half
        try:
            await half.joined.wait()
        finally:
            if self._halves.get(key) is half:
                del self._halves[key]

    def _join(self, *halves: _Half) -> None:
        by_lane = {half.hello.lane: half for half in halves}
        if len(by_lane) != len(LANES):
            raise ProtocolError(f"{halves[0].hello.name!r} opened two connections for {halves[0].hello.lane!r}")
        for half in halves:
            self._greeting.discard(half.connection)
            half.joined.set()
            self._say_hello(half.connection, half.hello.lane, half.hello.pair)
        control, data = (by_lane[lane] for lane in LANES)
        self._on_pair(control.hello, control.connection, data.connection)

    # ------------------------------------------------------------------------------------------------------ either way

    def _connect(self, path: str) -> Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A Unix socket connects at once or, with a full backlog, not at all: never half.
            sock.setblocking(False)
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return self._adopt(sock)

    def _adopt(self, sock: socket.socket) -> Connection:
        connection = Connection(sock, self._read_buffer)
        self._greeting.add(connection)
        return connection

    def _say_hello(self, connection: Connection, lane: str, pair: str) -> None:
        hello = Hello(version=VERSION, node=self._node, pid=os.getpid(), name=self._name, lane=lane, pair=pair)
        connection.send(encode(hello, time.monotonic_ns()))

    def _hang_up(self, connection: Connection) -> None:
        self._greeting.discard(connection)
        connection.close("no link")


class _Half:
    """A connection that said hello, and whether the other one of its pair came."""

    def __init__(self, hello: Hello, connection: Connection) -> None:
        self.hello = hello
        self.connection = connection
        self.joined = asyncio.Event()


def check_path(path: str) -> None:
    """Raise ConfigError when ``path`` is longer than the name of a Unix socket can be."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > MAX_PATH_BYTES:
        raise ConfigError(f"the path of a socket has {size_bytes} bytes, {MAX_PATH_BYTES} are possible: {path}")


def _prepare(path: str) -> None:
    """Make the folder when there is none, remove a socket file that is left over."""
    check_path(path)
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.stat(folder)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(f"{folder} must belong to this user and have mode 0700: links have no other protection")
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise ConfigError(f"{path} is no socket")
            os.unlink(path)
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error


def _remove(path: str, inode: int) -> None:
    """Remove the socket file, unless a successor has put its own there."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)
