"""Links between nodes: TCP, each side proving first that it holds the app's key, TLS below where it is configured.

Whoever dials sends 8 bytes that say what follows and 32 random ones; the listener answers the same; then both prove themselves with
HMAC-SHA256 (RFC 2104) over who speaks and both random values, the dialler first, so that a stranger is told nothing that depends on
the key. Nothing else is read before. It keeps strangers out; against somebody on the way between two nodes only TLS helps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from rtvi_actors.config import Cluster
from rtvi_actors.errors import AuthError, ConfigError

Result = TypeVar("Result")

MAGIC = b"rtvi-ln1"
NONCE_BYTES = 32
PROOF_BYTES = 32
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class LinkKey:
    """The secret of one app, made when it starts. Actors get it through Ray, which has a token of its own; it is never shown."""

    secret: bytes

    @classmethod
    def new(cls) -> LinkKey:
        """Another one."""
        return cls(secrets.token_bytes(32))

    def proof(self, who: bytes, dialler: bytes, listener: bytes) -> bytes:
        """What ``who`` (``b"dialler"`` or ``b"listener"``) proves itself with, given both sides' random values."""
        return hmac.digest(self.secret, MAGIC + who + dialler + listener, "sha256")

    def __repr__(self) -> str:
        return "LinkKey(...)"


@dataclass(frozen=True, slots=True)
class Network:
    """How the processes of one node are reached from others. ``host``: the node's address; ``settings``: ports and certificates."""

    host: str
    key: LinkKey
    settings: Cluster

    def listen(self) -> socket.socket:
        """A socket that listens on a port of the configured range, or on any.

        Raises:
            ConfigError: all ports are in use, the address is not this machine's, or the certificates cannot be read.
        """
        self._tls(server_side=True)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        fault: OSError | None = None
        for port in self.settings.ports():
            listener = socket.socket(family, socket.SOCK_STREAM)
            try:
                listener.setblocking(False)
                listener.bind((self.host, port))
                listener.listen(BACKLOG)
            except OSError as error:
                listener.close()
                fault = error
            else:
                return listener
        where = f"{self.host}, cluster.link_ports = {self.settings.link_ports!r}"
        raise ConfigError(f"cannot listen for links on {where}: {fault and fault.strerror}")

    async def dial(self, address: str) -> Socket:
        """Connect to ``HOST:PORT`` and prove each other. The caller sets the deadline.

        Raises:
            OSError: nobody listens there, or it hung up.
            AuthError: who listens there has another key, or a certificate of another authority.
        """
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        except BaseException:
            sock.close()
            raise
        return await self.admit(sock, we_dial=True)

    async def admit(self, sock: socket.socket, *, we_dial: bool) -> Socket:
        """Take a connected socket: TLS if configured, then both proofs. The caller sets the deadline; on failure it is closed.

        Raises:
            OSError: the peer hung up.
            AuthError: the peer has another key, or no certificate of the configured authority.
        """
        link: Socket = sock
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = self._tls(server_side=not we_dial)
            if tls is not None:
                link = TlsSocket(tls.wrap_socket(sock, server_side=not we_dial, do_handshake_on_connect=False))
                try:
                    await _ready(link, link.shake_hands)
                except ssl.SSLError as error:
                    raise AuthError(f"TLS: {error.reason or error}") from None
            await _prove(link, self.key, we_dial=we_dial)
        except BaseException:
            link.close()
            raise
        return link

    def _tls(self, *, server_side: bool) -> ssl.SSLContext | None:
        settings = self.settings
        if not settings.tls_cert:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # nodes come and go with their addresses: the authority is what counts
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
            context.load_verify_locations(settings.tls_ca)
        except (OSError, ssl.SSLError) as error:
            files = f"{settings.tls_cert}, {settings.tls_key}, {settings.tls_ca}"
            raise ConfigError(f"cluster.tls_*: the certificates cannot be used ({files}): {error}") from error
        return context


class TlsSocket:
    """A socket under TLS with the few methods that links use, as ``socket.socket`` has them when it does not block.

    OpenSSL does not stand two threads in one connection, and a heartbeat's thread writes while the loop reads: there is a lock.
    A read takes a whole TLS record (16 KiB) where the buffer is larger, so nothing stays behind that the kernel does not tell of.
    """

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def shake_hands(self) -> None:
        """Go on with the handshake. Raises BlockingIOError until it is complete, with what it waits for."""
        with self._as_plain():
            self._sock.do_handshake()

    def recv_into(self, buffer: memoryview) -> int:
        """See ``socket.recv_into``."""
        with self._as_plain():
            return self._sock.recv_into(buffer)

    def recv(self, size: int) -> bytes:
        """See ``socket.recv``."""
        with self._as_plain():
            return self._sock.recv(size)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """See ``socket.send``."""
        with self._as_plain():
            return self._sock.send(data)

    def fileno(self) -> int:
        """See ``socket.fileno``."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """See ``socket.setblocking``."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Close without a word: links end with the end of the stream."""
        with self._lock:
            self._sock.close()

    @contextlib.contextmanager
    def _as_plain(self) -> Iterator[None]:
        """One at a time, and with the errors of a plain socket."""
        with self._lock:
            try:
                yield
            except ssl.SSLWantReadError:
                raise BlockingIOError("read") from None
            except ssl.SSLWantWriteError:
                raise BlockingIOError("write") from None
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                raise ConnectionResetError("closed") from None


Socket = socket.socket | TlsSocket
"""What a link reads and writes."""


async def _prove(sock: Socket, key: LinkKey, *, we_dial: bool) -> None:
    ours = secrets.token_bytes(NONCE_BYTES)
    if we_dial:
        await _write(sock, MAGIC + ours)
    greeting = await _read(sock, len(MAGIC) + NONCE_BYTES)
    if not greeting.startswith(MAGIC):
        raise AuthError("this is no peer of ours")
    theirs = greeting[len(MAGIC) :]
    if we_dial:
        await _write(sock, key.proof(b"dialler", ours, theirs))
        expected = key.proof(b"listener", ours, theirs)
    else:
        await _write(sock, MAGIC + ours)
        expected = key.proof(b"dialler", theirs, ours)
    if not hmac.compare_digest(await _read(sock, PROOF_BYTES), expected):
        raise AuthError("the peer has another key")
    if not we_dial:
        await _write(sock, key.proof(b"listener", theirs, ours))


async def _read(sock: Socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = await _ready(sock, functools.partial(sock.recv, size - len(data)))
        if not more:
            raise ConnectionResetError("closed")
        data += more
    return bytes(data)


async def _write(sock: Socket, data: bytes) -> None:
    while data:
        data = data[await _ready(sock, functools.partial(sock.send, data), writing=True) :]


async def _ready(sock: Socket, act: Callable[[], Result], *, writing: bool = False) -> Result:
    """``act()`` once it does not block any more."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return act()
        except (BlockingIOError, InterruptedError) as error:
            wants = error.args[0] if error.args else ""
        changed = asyncio.Event()
        to_write = wants == "write" or (writing and wants != "read")
        add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
        add(sock, changed.set)
        try:
            await changed.wait()
        finally:
            remove(sock)
