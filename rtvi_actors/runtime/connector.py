"""How two processes meet: a socket that is listened on or dialled, a Hello each way, two connections joined to a pair.

On one node that is a Unix socket in a folder that nobody else may enter. From another node it is TCP, see ``network``: both sides
prove first that they hold the app's key.

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
from typing import Any

from rtvi_actors.errors import ConfigError, ProtocolError, RtviActorsError
from rtvi_actors.frames.codec import encode
from rtvi_actors.frames.types import VERSION, Hello, Lane
from rtvi_actors.runtime.link import READ_BYTES, Connection
from rtvi_actors.runtime.network import Network, Socket

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 2.0
"""For both connections of a pair to say who they are."""
COMPLAINT_PERIOD_S = 1.0
MAX_PATH_BYTES = 107
MAX_GREETING = 128
"""Connections that are not joined yet; more are closed at once."""

LANES: tuple[Lane, Lane] = ("control", "data")
Pair = tuple[Hello, Connection, Connection]
"""The peer's Hello, its control connection, its data connection."""


class Connector:
    """Makes pairs of connections. ``on_pair`` gets those that others dialled; :meth:`dial` returns its own."""

    def __init__(
        self,
        name: str,
        node: str,
        on_pair: Callable[[Hello, Connection, Connection], None],
        network: Network | None = None,
    ) -> None:
        self.refused = 0
        """Connections that were hung up on: strangers, and peers that came to nothing."""
        self._name = name
        self._node = node
        self._on_pair = on_pair
        self._network = network
        self._read_buffer = memoryview(bytearray(READ_BYTES))
        self._listeners: list[socket.socket] = []
        self._path = ""
        self._inode = 0
        self._complained = 0.0
        self._greeting: set[Connection] = set()
        self._halves: dict[tuple[str, str], _Half] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unproved: set[asyncio.Task[Any]] = set()

    def listen(self, path: str) -> str:
        """Listen at ``path``, replacing a socket file that a dead process left there; and on a TCP port, if there is a network.

        Returns:
            the address for peers on other nodes, ``HOST:PORT``, or "".

        Raises:
            ConfigError: the path is too long, taken by something else, or in a folder that others may enter; or no port is free.
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
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, None)
        if self._network is None:
            return ""
        try:
            return self._listen_on(self._network)
        except BaseException:
            self._hang_up_listeners()
            raise

    def _listen_on(self, network: Network) -> str:
        listener = network.listen()
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, network)
        host, port = listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def dial(self, peer: str, where: str) -> Pair:
        """A pair of connections to ``peer``, which listens at the path or HOST:PORT ``where``. Cancelling leaves nothing open.

        Raises:
            OSError: nobody listens there, or it hung up.
            ProtocolError: no proper hello of ``peer`` came within its time; AuthError: it has another key.
        """
        pair = uuid.uuid4().hex
        connections: list[Connection] = []
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                for lane in LANES:
                    connections.append(await self._connect(where))
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
        self._hang_up_listeners()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._greeting):
            self._hang_up(connection)

    def _hang_up_listeners(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        if self._listeners:
            self._listeners.clear()
            _remove(self._path, self._inode)

    # ------------------------------------------------------------------------------------------------ being dialled

    def _accept(self, listener: socket.socket, network: Network | None) -> None:
        try:
            sock, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors, most likely: a later try may find some.
            log.error("%s cannot accept a connection: %s", self._name, error)
            return
        # Those of other nodes that have not proved themselves do not take the place of this node's own.
        if len(self._unproved if network is not None else self._tasks - self._unproved) >= MAX_GREETING:
            sock.close()
            self.refused += 1
            return
        greeting = self._greet(self._adopt(sock)) if network is None else self._admit(sock, str(address[0]), network)
        task = asyncio.create_task(greeting, name=f"{self._name} greets")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if network is not None:
            self._unproved.add(task)
            task.add_done_callback(self._unproved.discard)

    async def _admit(self, sock: socket.socket, address: str, network: Network) -> None:
        """Let a connection of another node in that proves itself in time, and greet it."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                link = await network.admit(sock, we_dial=False)
        except (OSError, RtviActorsError) as error:
            self._refuse(address, str(error) or f"no proof within {HELLO_TIMEOUT_S} s")
            return
        finally:
            if (task := asyncio.current_task()) is not None:
                self._unproved.discard(task)
        await self._greet(self._adopt(link, remote=True))

    def _refuse(self, address: str, reason: str) -> None:
        """Count a stranger; say so once in a while, lest who knocks on and on fills the log."""
        self.refused += 1
        now_s = time.monotonic()
        if now_s - self._complained > COMPLAINT_PERIOD_S:
            self._complained = now_s
            log.warning("%s refuses a connection from %s: %s (%d refused so far)", self._name, address, reason, self.refused)

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
                self.refused += 1
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

    async def _connect(self, where: str) -> Connection:
        if not where.startswith("/"):
            if self._network is None:
                raise ProtocolError("this process has no links to other nodes")
            return self._adopt(await self._network.dial(where), remote=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A Unix socket connects at once or, with a full backlog, not at all: never half.
            sock.setblocking(False)
            sock.connect(where)
        except OSError:
            sock.close()
            raise
        return self._adopt(sock)

    def _adopt(self, sock: Socket, *, remote: bool = False) -> Connection:
        connection = Connection(sock, self._read_buffer, remote=remote)
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
    """Raise ConfigError when ``path`` is longer than the name of a Unix socket can be. HOST:PORT never is."""
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
