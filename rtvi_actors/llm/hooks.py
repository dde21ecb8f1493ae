"""The application's code beside the stage: what a bot fulfils, and the thread that its hooks run on.

The hooks of a session run on an event loop and a thread of their own. A bot that blocks makes its own session wait, and nobody
else: not the heartbeat of the actor, not the other sessions. Hooks that are plain functions run in a thread pool behind that loop.

``bot.py`` fulfils :class:`BotHooks`. This room is below it and learns of it only by name.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from rtvi_actors.errors import EngineError, EngineTimeoutError
from rtvi_actors.runtime.loop_watch import LoopWatch

log = logging.getLogger(__name__)

PIECES_AHEAD = 8
"""Pieces of an answer that ``on_turn`` may be ahead of its reader; then it waits."""
POOL_THREADS = 4
"""Hooks of one session that are plain functions and run at the same time."""


class Voice(Protocol):
    """What a session's bot may do."""

    session: str
    body: Mapping[str, Any]
    """What the client gave at ``POST /start``."""

    def say(self, text: str, *, whole: bool = False) -> concurrent.futures.Future[None]:
        """Say ``text`` in a turn of its own. Done when it was said, or interrupted. May be called from any thread.

        ``whole``: the context keeps all of it, even when it is interrupted.

        The future fails with SessionClosedError when the session ends first. Cancelling it withdraws a text that still waits.
        """

    def end(self, reason: str) -> None:
        """End the session when what is being said, and what waits to be, was heard. May be called from any thread."""


class SessionHooks(Protocol):
    """The bot of one session. Each method gives what the application's function returns: a result, or an awaitable of it."""

    def on_start(self) -> Any:
        """The client is ready."""

    def on_move(self) -> Any:
        """The session goes on here."""

    def on_turn(self, turn: int, text: str, source: str) -> Any:
        """The user's ``turn`` is settled: a str, an async iterator of str, or None for the model to answer."""

    def on_end(self) -> Any:
        """The session is over."""


class BotHooks(Protocol):
    """A bot's class."""

    name: str
    """As it is told in errors."""
    instructions: str
    overrides: frozenset[str]
    """Which of on_start, on_move, on_turn and on_end the application wrote ..."""
    blocking: frozenset[str]
    """... and which of these are plain functions, that run in a thread of the pool."""

    def open(self, voice: Voice) -> SessionHooks:
        """The bot of a new session."""


class HookThread:
    """The thread and event loop on which one session's hooks run. Made and used on the stage's loop; ends with :meth:`close`."""

    def __init__(self, bot: str, session: str) -> None:
        self.bot = bot
        self._stage_loop = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._closing = asyncio.Event()
        self._watch = LoopWatch(f"the bot {bot}", session)
        self._hooks_running = 0
        self._thread = threading.Thread(target=self._main, name=f"bot-{session}", daemon=True)
        self._thread.start()

    async def run(self, hook: str, function: Callable[[], Any], *, blocking: bool) -> Any:
        """Call ``function`` on the thread, to its end; in the pool behind it if it is ``blocking``. Cancelling cancels it there.

        Raises:
            EngineError: it failed. The text is one line that names ``hook``; the traceback is logged.
        """
        try:
            return await asyncio.wrap_future(self.submit(self._call_watched(function, blocking)))
        except Exception as error:
            raise self.failure(hook, error) from error

    def watched(self) -> AbstractContextManager[None]:
        """On the hooks' loop, while a hook runs: what blocks the loop is logged. An idle loop need not tick."""
        return self._watched()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        if not self._hooks_running:
            self._watch.start()
        self._hooks_running += 1
        try:
            yield
        finally:
            self._hooks_running -= 1
            if not self._hooks_running:
                self._watch.stop()

    async def _call_watched(self, function: Callable[[], Any], blocking: bool) -> Any:
        with self.watched():
            return await _call(function, blocking)

    def submit(self, work: Any) -> concurrent.futures.Future[Any]:
        """Start a coroutine on the hooks' loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the hooks' loop, unless that has ended."""
        if not self._ended.is_set():
            self._loop.call_soon_threadsafe(callback)

    def failure(self, hook: str, error: BaseException) -> EngineError:
        """The one-line error for what left ``hook``; the traceback goes to the log."""
        if isinstance(error, EngineTimeoutError):
            return error
        log.error("%s of %s failed", hook, self.bot, exc_info=error)
        first_line = (str(error).splitlines() or [""])[0][:200]
        return EngineError(f"{hook} of {self.bot} failed: {type(error).__name__}: {first_line}")

    async def close(self, timeout_s: float) -> None:
        """Cancel what runs and end the thread. One that blocks longer than ``timeout_s`` is left behind, and said so."""
        self._loop.call_soon_threadsafe(self._closing.set)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            log.warning("a hook of %s blocks its thread (%s) beyond the end of the session", self.bot, self._thread.name)

    def _main(self) -> None:
        pool = concurrent.futures.ThreadPoolExecutor(POOL_THREADS, thread_name_prefix=self._thread.name)
        self._loop.set_default_executor(pool)
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())
        try:
            self._stage_loop.call_soon_threadsafe(self._ended.set)
        except RuntimeError:
            log.debug("the loop of the stage ended before its hooks' thread %s", self._thread.name)

    async def _serve(self) -> None:
        await self._closing.wait()


class TurnCall:
    """One call of ``on_turn``, read piece by piece from the stage's loop."""

    def __init__(self, thread: HookThread, function: Callable[[], Any], *, blocking: bool) -> None:
        self.answered = False
        """After the last piece: the bot gave an answer. False: the model shall."""
        self._thread = thread
        self._function = function
        self._blocking = blocking
        self._stage_loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(PIECES_AHEAD)
        self._open = True

    @property
    def open(self) -> bool:
        """The answer still takes pieces."""
        return self._open

    async def pieces(self, timeout_ms: int) -> AsyncGenerator[str, None]:
        """Call the hook and yield what it answers. Closing cancels it.

        Raises:
            EngineError: the hook failed.
            EngineTimeoutError: it gave nothing for ``timeout_ms``.
        """
        future = self._thread.submit(self._drive())
        future.add_done_callback(lambda _: self._deliver(None))
        try:
            while (piece := await self._next(timeout_ms)) is not None:
                self._thread.call_soon(self._room.release)
                yield piece
            self.answered = future.result()
        except (EngineTimeoutError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise self._thread.failure("on_turn", error) from error
        finally:
            self._open = False
            future.cancel()

    async def put(self, text: str) -> None:
        """On the hooks' loop: add ``text`` to the answer; waits while the reader is behind."""
        if not isinstance(text, str):
            raise TypeError(f"a piece of an answer is a str, not {type(text).__name__}")
        await self._room.acquire()
        self._deliver(text)

    def _deliver(self, piece: str | None) -> None:
        try:
            self._stage_loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        except RuntimeError:
            log.debug("the loop of the stage ended before an answer of the bot")

    async def _next(self, timeout_ms: int) -> str | None:
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                return await self._pieces.get()
        except TimeoutError:
            raise EngineTimeoutError(f"on_turn of {self._thread.bot} gave nothing for {timeout_ms} ms") from None

    async def _drive(self) -> bool:
        """On the hooks' loop: one task from the call to the last piece, as async context managers of the bot's need it."""
        current_call.set(self)
        with self._thread.watched():
            return await self._answer()

    async def _answer(self) -> bool:
        """Hand on what the hook answers. False: nothing."""
        result = await _call(self._function, self._blocking)
        if result is None:
            return False
        if isinstance(result, str):
            await self.put(result)
        elif isinstance(result, AsyncGenerator):
            async with aclosing(result):
                async for piece in result:
                    await self.put(piece)
        elif isinstance(result, AsyncIterator):
            async for piece in result:
                await self.put(piece)
        else:
            raise TypeError(f"it gives a str, an async iterator of str, or None, not {type(result).__name__}")
        return True


current_call: ContextVar[TurnCall | None] = ContextVar("current_call", default=None)
"""The on_turn that the running code belongs to: what it says becomes part of that answer."""


async def _call(function: Callable[[], Any], blocking: bool) -> Any:
    """Call a hook, to its end."""
    task = asyncio.current_task()
    try:
        result = await asyncio.to_thread(function) if blocking else function()
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("it was cancelled from inside") from None
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
