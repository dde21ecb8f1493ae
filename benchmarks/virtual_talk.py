"""The real speaking and STT stages and the real speech model, in virtual time.

A window of the microphone takes 32 virtual milliseconds and almost no real ones. Decoding takes the virtual time that the model
really took, one request at a time, as in an engine with one session. The bot is a stub: it thinks when a turn is committed, and
speaks for a while.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from rtvi_actors.config import Config
from rtvi_actors.engines.batch import BatchQueue
from rtvi_actors.engines.serve import EngineServer
from rtvi_actors.frames.types import Attach, Audio, BotState, Cancel, Frame, Role, Transcript, TurnEnded, TurnStarted
from rtvi_actors.runtime.port import Stage
from rtvi_actors.speaking.stage import SpeakingStages
from rtvi_actors.stt.engine import SttBackend, SttPiece, SttRequest
from rtvi_actors.stt.stage import SttStages
from rtvi_actors.testing.recordings import RATE_HZ

WINDOW_SAMPLES = 512
BOT_THINKS_MS = 350
BOT_SPEAKS_MS = 1_500
"""From a commit to the bot's first sound, and how long it then speaks."""
ENCODE_SHARE = 0.4
"""Of a decode's time. Behind it an interim is given up that was withdrawn, or that a final waits for."""


class Model:
    """The configuration's speech model in this process: what it hears, and how long it takes. Blocks.

    ``cache``: a file with what was decoded before, so that a second run takes seconds. ``fixed_ms``: pretend that each decode
    takes this long, on a machine that is busy with other things.
    """

    def __init__(self, backend: SttBackend, cache: Path | None = None, fixed_ms: float | None = None) -> None:
        self._backend = backend
        self._fixed_ms = fixed_ms
        self._cache = cache
        self._known: dict[str, SttPiece] = {}
        if cache is not None and cache.exists():
            self._known = {key: msgspec.convert(piece, SttPiece) for key, piece in msgspec.json.decode(cache.read_bytes()).items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model", daemon=True)
        self._thread.start()
        self._backend.load()
        self._backend.warm_up()

    def hear(self, request: SttRequest) -> SttPiece:
        """What it heard; ``compute_ns`` is what that took."""
        key = hashlib.sha256(request.pcm + bytes([request.final])).hexdigest()
        if key not in self._known:
            self._known[key] = asyncio.run_coroutine_threadsafe(self._decode(request), self._loop).result()
        piece = self._known[key]
        return piece if self._fixed_ms is None else msgspec.structs.replace(piece, compute_ns=round(self._fixed_ms * 1e6))

    def close(self) -> None:
        """Write the cache and stop."""
        self._backend.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._cache is not None:
            self._cache.write_bytes(msgspec.json.encode(self._known))

    async def _decode(self, request: SttRequest) -> SttPiece:
        async with aclosing(self._backend.stream("benchmark", request)) as pieces:  # type: ignore[type-var]
            return await anext(pieces)


class OneAtATime:
    """An SttBackend in virtual time around a :class:`Model`."""

    memory_bytes = 0

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: BatchQueue[_Job] = BatchQueue(max_batch=1)
        self._working = False
        self.computed_ms = {True: 0.0, False: 0.0}
        """What finals and interims took, by ``SttRequest.final``."""
        self.final_waits_ms: list[float] = []
        """How long each final waited for the model."""

    def load(self) -> None:
        """Loaded already."""

    def warm_up(self) -> None:
        """Warm already."""

    def close(self) -> None:
        """Nothing to stop."""

    async def stream(self, session: str, request: SttRequest) -> AsyncGenerator[SttPiece, None]:
        """One piece."""
        job = _Job(request)
        ticket = self._waiting.put(session, job, round(_now_ms()), urgent=request.final)
        asyncio.get_running_loop().call_soon(self._work)
        try:
            yield await job.done
        finally:
            job.withdrawn = True
            self._waiting.withdraw(ticket)

    def _work(self) -> None:
        if self._working:
            return
        batch = self._waiting.take(round(_now_ms()))
        if batch:
            self._working = True
            self._begin(batch[0])

    def _begin(self, job: _Job) -> None:
        piece = self._model.hear(job.request)
        ms = piece.compute_ns / 1e6
        if job.request.final:
            self.final_waits_ms.append(_now_ms() - job.since_ms)

        def encoded() -> None:
            given_up = not job.request.final and (job.withdrawn or self._waiting.urgent)
            rest_ms = 0.0 if given_up else ms * (1 - ENCODE_SHARE)
            self.computed_ms[job.request.final] += ms * ENCODE_SHARE + rest_ms
            loop.call_later(rest_ms / 1_000, decoded, msgspec.structs.replace(piece, text="") if given_up else piece)

        def decoded(heard: SttPiece) -> None:
            self._working = False
            if not job.done.done():
                job.done.set_result(heard)
            self._work()

        loop = asyncio.get_running_loop()
        loop.call_later(ms * ENCODE_SHARE / 1_000, encoded)


class _Job:
    def __init__(self, request: SttRequest) -> None:
        self.request = request
        self.since_ms = _now_ms()
        self.withdrawn = False
        self.done: asyncio.Future[SttPiece] = asyncio.get_running_loop().create_future()


class Talk:
    """One user, one microphone. ``heard``: what the edge was sent, each frame with its virtual time in ms."""

    def __init__(self, config: Config, model: Model, speaking: SpeakingStages) -> None:
        self.heard: list[tuple[float, Frame]] = []
        self.backend = OneAtATime(model)
        self._ports: dict[Role, _Port] = {}
        self._engine = EngineServer("stt", self.backend, _Links(self))
        attach = Attach(route={}, bot="")
        for role, make in (("speaking", speaking.create), ("stt", SttStages(config).create)):
            port = self._ports[role] = _Port(role, self.carry)
            port.stage = make(port, attach)
        self._bot_timers: list[asyncio.TimerHandle] = []
        self._ended: set[tuple[int, int]] = set()
        self._finals: dict[tuple[int, int], str] = {}

    async def play(self, pcm: bytes) -> float:
        """Let the microphone hear ``pcm`` in real time, virtually. Returns the time of its first sample, in ms."""
        loop = asyncio.get_running_loop()
        for port in self._ports.values():
            await port.stage.open()
        begin_s = loop.time()
        for first_sample in range(0, len(pcm) // 2, WINDOW_SAMPLES):
            due_s = begin_s + (first_sample + WINDOW_SAMPLES) / RATE_HZ
            await asyncio.sleep(due_s - loop.time())
            window = pcm[first_sample * 2 : (first_sample + WINDOW_SAMPLES) * 2]
            self._ports["speaking"].stage.receive(Audio(first_sample, window))
        for port in self._ports.values():
            await port.close()
        for timer in self._bot_timers:
            timer.cancel()
        await self._engine.close()
        return begin_s * 1_000

    def carry(self, source: Role, to: Role, frame: Frame) -> None:
        """Deliver ``frame`` as soon as the event loop comes to it."""
        loop = asyncio.get_running_loop()
        if to == "edge":
            self.heard.append((_now_ms(), frame))
            self._watch(frame)
        elif to == "engine/stt":
            loop.call_soon(self._engine.on_frame, source, frame)
        elif to in self._ports:
            loop.call_soon(self._ports[to].receive, frame)

    def _watch(self, frame: Frame) -> None:
        """Be the bot: a turn is committed by its final and its end, in either order."""
        key = (frame.turn, frame.attempt)
        match frame:
            case Transcript(final=True):
                self._finals[key] = frame.text
            case TurnEnded():
                self._ended.add(key)
            case Cancel() | TurnStarted(source="text"):
                for timer in self._bot_timers:
                    timer.cancel()
                return
            case _:
                return
        if key in self._ended and self._finals.get(key, "").strip():
            self._answer(frame.turn)

    def _answer(self, turn: int) -> None:
        loop, speaking = asyncio.get_running_loop(), self._ports["speaking"]
        at_ms = {"thinking": 0, "speaking": BOT_THINKS_MS, "silent": BOT_THINKS_MS + BOT_SPEAKS_MS}
        self._bot_timers = [
            loop.call_later(ms / 1_000, speaking.receive, BotState(state, turn=turn)) for state, ms in at_ms.items()
        ]


class _Links:
    """The engine's way back."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def connected(self, peer: str) -> bool:
        return True

    def send(self, peer: str, frame: Frame) -> bool:
        self._talk.carry("engine/stt", peer, frame)
        return True


class _Port:
    """A StagePort on the running event loop, without sockets."""

    stage: Stage

    def __init__(self, role: Role, carry: Callable[[Role, Role, Frame], None]) -> None:
        self.session, self.epoch = "benchmark", 0
        self._role, self._carry = role, carry
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._errors: list[BaseException] = []
        self._closed = False

    def receive(self, frame: Frame) -> None:
        if not self._closed:
            self.stage.receive(frame)

    def now_ms(self) -> int:
        return int(_now_ms())

    def send(self, to: Role, frame: Frame) -> None:
        if not self._closed:
            self._carry(self._role, to, frame)

    async def send_credited(self, to: Role, stream: str, frame: Frame, size_bytes: int) -> None:
        self.send(to, frame)

    def grant(self, to: Role, stream: str, size_bytes: int) -> None:
        """Nothing is held back here."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def call_later(self, delay_ms: int, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timer = asyncio.get_running_loop().call_later(delay_ms / 1_000, callback)
        self._timers.append(timer)
        return timer

    async def close(self) -> None:
        """End the stage; a failure of one of its tasks is raised here."""
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.stage.close()
        if self._errors:
            raise self._errors[0]

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1_000
