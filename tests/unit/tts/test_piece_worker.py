from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from rtvi_actors.errors import EngineError, EngineLostError
from rtvi_actors.tts.engine import TtsPiece, TtsRequest
from rtvi_actors.tts.piece_worker import PieceWorker, Step

pytestmark = pytest.mark.unit

SECOND = b"\0\0" * 24_000


class FakeVoice:
    """Speaks ``"name n"`` as n pieces of a second. Each piece waits for a permit, so that a test decides what is there when."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.begun: list[str] = []
        self.closed: list[str] = []
        self.threads: set[int] = set()

    def set_up(self) -> None:
        self.threads.add(threading.get_ident())

    def speak(self, request: TtsRequest) -> Iterator[Step]:
        name, pieces = request.text.split()
        try:
            for number in range(int(pieces)):
                self.begun.append(f"{name}{number}")
                self.threads.add(threading.get_ident())
                assert self.permits.acquire(timeout=10)
                if name == "bad":
                    raise ZeroDivisionError("no such vowel")
                yield Step(SECOND, [(0, number)])
        finally:
            self.closed.append(name)

    def allow(self, pieces: int) -> None:
        self.permits.release(pieces)


@pytest.fixture
def voice() -> FakeVoice:
    return FakeVoice()


@pytest.fixture
def worker(voice: FakeVoice) -> Iterator[PieceWorker]:
    worker = PieceWorker("voice", voice.set_up, voice.speak)
    yield worker
    voice.allow(1_000)
    worker.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def collect(pieces: AsyncIterator[TtsPiece]) -> list[TtsPiece]:
    return [piece async for piece in pieces]


async def test_streams_while_it_speaks(worker: PieceWorker, voice: FakeVoice) -> None:
    stream = worker.stream("s", TtsRequest("a 3"))
    voice.allow(1)
    first = await anext(stream)
    await until(lambda: voice.begun == ["a0", "a1"])
    assert first.pcm == SECOND
    assert first.compute_ns > 0
    assert first.queue_ns > 0
    voice.allow(2)
    rest = await collect(stream)
    assert [piece.pcm for piece in rest] == [SECOND, SECOND]
    assert [piece.marks for piece in [first, *rest]] == [[(0, 0)], [(0, 1)], [(0, 2)]]
    assert rest[-1].compute_ns > first.compute_ns
    assert len(voice.threads) == 1


async def test_a_new_clause_comes_before_those_that_are_ahead(worker: PieceWorker, voice: FakeVoice) -> None:
    first = asyncio.create_task(collect(worker.stream("s1", TtsRequest("a 4"))))
    await until(lambda: voice.begun == ["a0"])
    voice.allow(1)
    await until(lambda: voice.begun == ["a0", "a1"])
    second = asyncio.create_task(collect(worker.stream("s2", TtsRequest("b 2"))))
    await asyncio.sleep(0)
    voice.allow(10)
    assert len(await first) == 4
    assert len(await second) == 2
    # b1 before a2: the audio of a lasts a second longer. a3 comes when b is through.
    assert voice.begun == ["a0", "a1", "b0", "b1", "a2", "a3"]


async def test_closing_stops_after_the_piece_in_work(worker: PieceWorker, voice: FakeVoice) -> None:
    stream = worker.stream("s", TtsRequest("a 5"))
    voice.allow(1)
    await anext(stream)
    await until(lambda: voice.begun == ["a0", "a1"])
    await stream.aclose()
    voice.allow(10)
    await until(lambda: voice.closed == ["a"])
    assert voice.begun == ["a0", "a1"]
    assert len(await collect(worker.stream("s", TtsRequest("b 2")))) == 2


async def test_a_waiting_clause_that_is_cancelled_never_begins(worker: PieceWorker, voice: FakeVoice) -> None:
    first = asyncio.create_task(collect(worker.stream("s", TtsRequest("a 1"))))
    await until(lambda: voice.begun == ["a0"])
    second = asyncio.create_task(collect(worker.stream("s", TtsRequest("b 1"))))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    voice.allow(10)
    await first
    assert len(await collect(worker.stream("s", TtsRequest("c 1")))) == 1
    assert voice.begun == ["a0", "c0"]


async def test_a_clause_that_fails_leaves_the_others(worker: PieceWorker, voice: FakeVoice) -> None:
    voice.allow(10)
    with pytest.raises(EngineError, match="no such vowel"):
        await collect(worker.stream("s", TtsRequest("bad 1")))
    assert len(await collect(worker.stream("s", TtsRequest("a 2")))) == 2


async def test_nothing_to_say_gives_no_piece(worker: PieceWorker) -> None:
    assert await collect(worker.stream("s", TtsRequest("a 0"))) == []


async def test_closing_the_worker_fails_what_is_left(worker: PieceWorker, voice: FakeVoice) -> None:
    running = asyncio.create_task(collect(worker.stream("s", TtsRequest("a 1"))))
    waiting = asyncio.create_task(collect(worker.stream("s", TtsRequest("b 1"))))
    await until(lambda: voice.begun == ["a0"])
    closing = asyncio.create_task(asyncio.to_thread(worker.close))
    for task in (running, waiting):
        with pytest.raises(EngineLostError):
            await task
    voice.allow(1)
    await closing
    with pytest.raises(EngineLostError):
        await collect(worker.stream("s", TtsRequest("c 1")))
