"""What a stage sees of the world: a :class:`StagePort`. What the runtime sees of a stage: a :class:`Stage`.

Stage code knows one session, no Ray, no sockets and no clock but the port's. The same stage runs in a Ray actor, in a test with a
fake port, and in one process with others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from rtvi_actors.frames.types import Attach, Frame, Role

if TYPE_CHECKING:
    from rtvi_actors.config import Config


class Timer(Protocol):
    """A call that waits for its time."""

    def cancel(self) -> None:
        """Forget it. Harmless when it already ran."""


class StagePort(Protocol):
    """One session's connection to its other actors, given to its stage by whoever hosts it."""

    session: str
    epoch: int

    def now_ms(self) -> int:
        """Milliseconds of the monotonic clock."""

    def send(self, to: Role, frame: Frame) -> None:
        """Send ``frame`` to the actor that plays ``to``. Never blocks.

        In order per receiver and lane. User audio beyond one waiting second drops its oldest; control beyond 256 waiting
        frames ends the session. A session that is closing sends nothing more. Use :meth:`send_credited` for bulk.

        Raises:
            SessionClosedError: ``to`` is no role of this session's route.
        """

    async def send_credited(self, to: Role, stream: str, frame: Frame, size_bytes: int) -> None:
        """Wait until the receiver of ``stream`` has room for ``size_bytes``, then :meth:`send`.

        Streams and their windows are in ``runtime.mailbox``. Cancelling the waiting task sends nothing.
        """

    def grant(self, to: Role, stream: str, size_bytes: int) -> None:
        """As receiver of ``stream``: ``size_bytes`` of it were used up or dropped; its producer may send as much again."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` as a task of the session. It is cancelled and awaited when the session closes.

        An exception that leaves it is logged and told to the edge as an Error of its scope (``turn`` for strangers).
        """

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` on the event loop after ``delay_ms``, unless the session is closed by then."""


class Stage(Protocol):
    """One session's state in a stage actor."""

    async def open(self) -> None:
        """Get ready. Attached is sent when it returns, Refused (with the error's text) when it raises."""

    def receive(self, frame: Frame) -> None:
        """Take one frame, on the event loop, in order per sender and lane. Must not block: long work goes to a task."""

    async def close(self) -> None:
        """Let go of everything. Called once, after the session's tasks were cancelled; 2 s at most."""


class StageHost(Protocol):
    """What one process holds for all its sessions of a kind (weights of the VAD, the bot's class), and the maker of stages.

    The runtime gets it as ``module:Class`` and calls ``Class(config)`` once, before the actor says that it is ready.
    """

    def __init__(self, config: Config) -> None: ...

    def create(self, port: StagePort, attach: Attach) -> Stage:
        """A stage for a new session."""

    def close(self) -> None:
        """The process ends."""
