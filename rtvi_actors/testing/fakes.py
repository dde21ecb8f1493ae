"""Fakes: models with set delays, and a port that records what a stage does with it.

The models are backends like any other, for tests of timing and of failure::

    [llm]
    backend = "rtvi_actors.testing.fakes:FakeLlm"

Their delays and scripts are class attributes, so that a subclass named in a configuration sets its own::

    class SlowLlm(FakeLlm):
        first_ms = 2_000
        answers = ("One moment.",)
"""

from __future__ import annotations

import asyncio
import re
import time
from array import array
from collections.abc import AsyncGenerator, Callable, Coroutine
from math import pi, sin
from typing import Any, ClassVar

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError, SessionClosedError
from rtvi_actors.frames.types import Frame, Role
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.stt import engine as stt
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.tts import engine as tts
from rtvi_actors.tts.engine import TtsPiece, TtsRequest


class FakeBackend:
    """What the fakes have in common. Answers of different sessions do not wait for each other."""

    fail_on: ClassVar[str] = ""
    """A request whose text (STT: whose transcript) contains this fails, if not ""."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requests: list[Any] = []
        """All requests so far, in order."""
        self.withdrawn = 0
        """Requests whose answer was not read to its end."""
        self.loaded = False

    @property
    def memory_bytes(self) -> int:
        """None taken."""
        return 0

    def load(self) -> None:
        """Nothing to load."""
        self.loaded = True

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def close(self) -> None:
        """Nothing to stop."""
        self.loaded = False

    def _check(self, text: str) -> None:
        if self.fail_on and self.fail_on in text:
            raise EngineError(f"the fake fails on {self.fail_on!r}")


class FakeStt(FakeBackend):
    """Tells how long an utterance is, ``"utterance of 3 s"``, or what ``script`` says: per session one text for each final.

    Silence (no sample above ``silence``) is "".
    """

    delay_ms: ClassVar[float] = 30
    script: ClassVar[tuple[str, ...]] = ()
    silence: ClassVar[int] = 100

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._heard: dict[str, int] = {}

    async def stream(self, session: str, request: SttRequest) -> AsyncGenerator[SttPiece, None]:
        """One piece after ``delay_ms``."""
        self.requests.append(request)
        begun_ns = time.monotonic_ns()
        heard = self._heard.get(session, 0)
        text = self._text(session, request.pcm)
        if not request.final:
            self._heard[session] = heard  # its final gets the same text
        try:
            await asyncio.sleep(self.delay_ms / 1_000)
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        self._check(text)
        yield SttPiece(text=text, language="en", compute_ns=time.monotonic_ns() - begun_ns)

    def _text(self, session: str, pcm: bytes) -> str:
        samples = array("h", pcm)
        if max(map(abs, samples), default=0) <= self.silence:
            return ""
        if not self.script:
            return f"utterance of {max(1, round(len(samples) / stt.SAMPLE_RATE_HZ))} s"
        heard = self._heard.get(session, 0)
        self._heard[session] = heard + 1
        return self.script[heard % len(self.script)]


class FakeLlm(FakeBackend):
    """Streams the words of ``answers`` in turn, one for each request of a session; ``{text}`` in one is the last message."""

    first_ms: ClassVar[float] = 20
    """Delay of the first word ..."""
    token_ms: ClassVar[float] = 5
    """... and of each further one."""
    answers: ClassVar[tuple[str, ...]] = ("I heard you say: {text} That was all.",)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._answered: dict[str, int] = {}

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """A word at a time, white space before it, ``max_tokens`` words at most."""
        self.requests.append(request)
        begun_ns = time.monotonic_ns()
        text = request.messages[-1].content
        answered = self._answered.get(session, 0)
        self._answered[session] = answered + 1
        words = self.answers[answered % len(self.answers)].format(text=text).split()
        shown, complete = words[: request.max_tokens], False
        try:
            for count, word in enumerate(shown, start=1):
                await asyncio.sleep((self.first_ms if count == 1 else self.token_ms) / 1_000)
                self._check(text)
                reason = "" if count < len(shown) else "stop" if len(shown) == len(words) else "length"
                complete = bool(reason)
                yield LlmPiece(
                    text=word if count == 1 else f" {word}",
                    compute_ns=time.monotonic_ns() - begun_ns,
                    finish_reason=reason,
                    prompt_tokens=sum(len(message.content.split()) for message in request.messages),
                    completion_tokens=count,
                )
        finally:
            self.withdrawn += not complete

    def forget(self, session: str) -> None:
        """Begin the answers anew."""
        self._answered.pop(session, None)


class FakeTts(FakeBackend):
    """A tone of 400 Hz, ``ms_per_character`` for each character, in pieces of the configured ``piece_ms``.

    It tells the times of its words, unless ``tells_words`` is False.
    """

    first_ms: ClassVar[float] = 20
    """Delay of the first piece ..."""
    piece_delay_ms: ClassVar[float] = 5
    """... and of each further one."""
    ms_per_character: ClassVar[int] = 60
    tells_words: ClassVar[bool] = True

    async def stream(self, session: str, request: TtsRequest) -> AsyncGenerator[TtsPiece, None]:
        """The tone; no piece for white space."""
        self.requests.append(request)
        begun_ns = time.monotonic_ns()
        text = request.text.strip()
        left = len(text) * self.ms_per_character * tts.SAMPLE_RATE_HZ // 1_000
        step = self.config.tts.piece_ms * tts.SAMPLE_RATE_HZ // 1_000
        delay_ms, at = self.first_ms, 0
        try:
            while left > 0:
                await asyncio.sleep(delay_ms / 1_000)
                self._check(text)
                count = min(step, left)
                delay_ms, left = self.piece_delay_ms, left - count
                marks = self._marks(request.text) if at == 0 and self.tells_words else []
                yield TtsPiece(pcm=tone(at, count), compute_ns=time.monotonic_ns() - begun_ns, marks=marks)
                at += count
        finally:
            self.withdrawn += left > 0

    def _marks(self, text: str) -> list[tuple[int, int]]:
        begin, samples = len(text) - len(text.lstrip()), self.ms_per_character * tts.SAMPLE_RATE_HZ // 1_000
        return [((char - begin) * samples, char) for word in re.finditer(r"\S+", text) for char in word.span()]


_PERIOD = array("h", [round(8_000 * sin(2 * pi * at / 60)) for at in range(60)]).tobytes()


def tone(first_sample: int, count: int) -> bytes:
    """``count`` samples of a tone of 400 Hz at 24 kHz, PCM16 mono, from ``first_sample`` on."""
    offset = first_sample % 60 * 2
    return (_PERIOD * (count // 60 + 2))[offset : offset + count * 2]


class FakeTimer:
    """A call that waits for the fake clock."""

    def __init__(self, due_ms: int, callback: Callable[[], None]) -> None:
        self.due_ms = due_ms
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Forget it."""
        self.cancelled = True


class FakePort:
    """A StagePort for tests of a stage: nothing is sent anywhere, the clock is moved by hand.

    ::

        port = FakePort()
        stage = SttStage(config, port)
        stage.receive(TurnMayEnd(turn=1, attempt=1, last_sample=512))
        await port.settle()                       # let the stage's tasks run until they wait
        await port.advance(3_000)                 # timers that are due by then run, in order
        assert port.frames("llm", Transcript) == [...]
        await port.close()

    ``roles`` are those that may be sent to; None allows all. Streams have no limit until :meth:`limit` sets one.
    """

    def __init__(self, session: str = "s1", roles: set[Role] | None = None) -> None:
        self.session = session
        self.epoch = 1
        self.sent: list[tuple[Role, Frame]] = []
        """(receiver, frame), in order of sending."""
        self.granted: list[tuple[Role, str, int]] = []
        """(producer, stream, bytes) of every grant."""
        self.errors: list[BaseException] = []
        """What left the tasks."""
        self.closed = False
        self._roles = roles
        self._now_ms = 1_000
        self._room: dict[str, int] = {}
        self._room_changed = asyncio.Condition()
        self._timers: list[FakeTimer] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def now_ms(self) -> int:
        """The fake clock; it starts at 1,000."""
        return self._now_ms

    def send(self, to: Role, frame: Frame) -> None:
        """Record ``frame``."""
        if self.closed:
            return
        if self._roles is not None and to not in self._roles:
            raise SessionClosedError(f"{to} is no role of session {self.session}")
        self.sent.append((to, frame))

    async def send_credited(self, to: Role, stream: str, frame: Frame, size_bytes: int) -> None:
        """Wait for room in ``stream``, then record ``frame``."""
        async with self._room_changed:
            await self._room_changed.wait_for(lambda: self._room.get(stream, size_bytes) >= size_bytes)
            if stream in self._room:
                self._room[stream] -= size_bytes
            self.send(to, frame)

    def grant(self, to: Role, stream: str, size_bytes: int) -> None:
        """Record a grant of the stage's."""
        self.granted.append((to, stream, size_bytes))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work``; an exception that leaves it goes to ``errors``."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> FakeTimer:
        """Call ``callback`` when the clock was moved that far."""
        timer = FakeTimer(self._now_ms + delay_ms, callback)
        self._timers.append(timer)
        return timer

    # ------------------------------------------------------------------------------------------------ for the test

    @property
    def running(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    @property
    def waiting_timers(self) -> int:
        """Timers that have neither run nor been cancelled."""
        return sum(not timer.cancelled for timer in self._timers)

    def frames(self, to: Role, *kinds: type[Frame]) -> list[Frame]:
        """What was sent to ``to``, in order; of these kinds, if any are given."""
        return [frame for role, frame in self.sent if role == to and (not kinds or isinstance(frame, kinds))]

    def granted_bytes(self, stream: str) -> int:
        """All that the stage granted for ``stream``."""
        return sum(size for _, name, size in self.granted if name == stream)

    async def limit(self, stream: str, room_bytes: int) -> None:
        """From now on ``stream`` has room for ``room_bytes`` in all, until it is called again."""
        async with self._room_changed:
            self._room[stream] = room_bytes
            self._room_changed.notify_all()

    async def settle(self, rounds: int = 50) -> None:
        """Let the event loop run ``rounds`` times: enough for tasks that wait for each other, not for real time."""
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def advance(self, milliseconds: int) -> None:
        """Move the clock, run the timers that come due on the way at their time, and settle."""
        end_ms = self._now_ms + milliseconds
        while due := sorted((t for t in self._timers if not t.cancelled and t.due_ms <= end_ms), key=lambda t: t.due_ms):
            timer = due[0]
            self._timers.remove(timer)
            self._now_ms = max(self._now_ms, timer.due_ms)
            timer.callback()
            await self.settle()
        self._now_ms = end_ms
        self._timers = [timer for timer in self._timers if not timer.cancelled]
        await self.settle()

    async def close(self) -> None:
        """The session ends: cancel the tasks and await them, send nothing more."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)
