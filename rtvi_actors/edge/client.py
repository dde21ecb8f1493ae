"""What a session sees of its client, whatever the transport; and the ordered, bounded stream of what is sent to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol


class ClientGoneError(Exception):
    """The client's connection is closed or broken. Nothing can be told to it any more."""


class Client(Protocol):
    """One connected client."""

    async def send_bytes(self, data: bytes) -> None:
        """Send one binary message. Waits while the client reads more slowly than it is sent to.

        Raises:
            ClientGoneError: the connection is over.
        """

    async def send_text(self, text: str) -> None:
        """Send one text message. Otherwise like :meth:`send_bytes`."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, within 2 s even if the client reads nothing. Harmless when it is closed already."""


class Outbox:
    """Everything on its way to one client, audio and messages in one order. Holds ``limit_bytes``, then calls ``on_overflow`` once.

    ``put`` never waits; one task runs :meth:`write_to`.
    """

    def __init__(self, limit_bytes: int, on_overflow: Callable[[], None]) -> None:
        self.waiting_bytes = 0
        """Bytes not yet taken by the connection."""
        self._limit_bytes = limit_bytes
        self._on_overflow = on_overflow
        self._queue: deque[tuple[bytes | str, int]] = deque()
        self._wake = asyncio.Event()
        self._finished = False

    def put(self, data: bytes | str, *, audio_of: int = 0) -> None:
        """Queue one message, binary or text. Dropped after :meth:`finish`.

        ``audio_of``: the turn whose audio it is, for :meth:`drop_audio`.
        """
        if self._finished:
            return
        size_bytes = message_bytes(data)
        if self.waiting_bytes + size_bytes > self._limit_bytes:
            self.discard()
            self._on_overflow()
            return
        self.waiting_bytes += size_bytes
        self._queue.append((data, audio_of))
        self._wake.set()

    def drop_audio(self, fence: int) -> None:
        """Forget audio of turns below ``fence`` that the connection has not taken: those turns are cancelled."""
        dropped = [data for data, turn in self._queue if 0 < turn < fence]
        if dropped:
            self.waiting_bytes -= sum(map(message_bytes, dropped))
            self._queue = deque((data, turn) for data, turn in self._queue if not 0 < turn < fence)

    def finish(self) -> None:
        """Take nothing more; :meth:`write_to` returns when the rest is written."""
        self._finished = True
        self._wake.set()

    def discard(self) -> None:
        """Take nothing more and forget the rest."""
        self.waiting_bytes -= sum(message_bytes(data) for data, _ in self._queue)
        self._queue.clear()
        self.finish()

    async def write_to(self, client: Client) -> None:
        """Write until :meth:`finish` and the queue is empty. What is queued in one pass of the loop leaves in one go.

        Raises:
            ClientGoneError: the connection is over.
        """
        while True:
            while self._queue:
                data, _ = self._queue.popleft()
                if isinstance(data, str):
                    await client.send_text(data)
                else:
                    await client.send_bytes(data)
                self.waiting_bytes -= message_bytes(data)
            if self._finished:
                return
            self._wake.clear()
            await self._wake.wait()


def message_bytes(data: bytes | str) -> int:
    """How many bytes the message has on the wire."""
    return len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
