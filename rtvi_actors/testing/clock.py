"""A clock that moves when told: an event loop on which minutes of conversation take milliseconds.

::

    loop = VirtualLoop()
    with virtual_time(loop), asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.sleep(3_600))        # returns at once; an hour has passed

While something is ready to run, time stands still. With nothing to do it jumps to the next timer, never further than whoever runs
the loop asks for: ``runner.run(asyncio.sleep(0.5))`` is half a second.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

START_S = 1_000.0
"""Where the clock begins. Not at 0, which reads as "never" in too many places."""

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: with nothing to do, it is at once as late as its next timer.

    Real sockets work, in real time: while one is open the loop waits for it as an ordinary loop does. Plain functions in the
    default executor (``asyncio.to_thread``) run at once, in the loop's own thread.
    """

    def __init__(self) -> None:
        self.now_s = START_S
        super().__init__(_Selector(self))
        self.set_default_executor(_AtOnce())

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_s


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        """As the base class, but time passes instead of waiting."""
        # The loop's own wake-up pipe is always registered.
        waits_for_sockets = len(self.get_map()) > 1
        ready = super().select(timeout if waits_for_sockets else 0)
        if not ready and timeout != 0:
            if timeout is None:
                raise RuntimeError("deadlock: no task is ready, and no timer, socket or thread will ever wake one")
            self._loop.now_s += timeout
        return ready


class _AtOnce(ThreadPoolExecutor):
    """Runs what it is given before ``submit`` returns. A thread pool by name, since asyncio insists on one."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The finished future of ``fn(*args, **kwargs)``."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[None]:
    """Within it, the monotonic clock of this process is the loop's: everything that asks for the time agrees with the timers."""

    def now_ns() -> int:
        return int(loop.now_s * 1e9)

    with mock.patch("time.monotonic_ns", now_ns), mock.patch("time.monotonic", loop.time):
        yield
