import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from rtvi_actors.engines import batch_worker
from rtvi_actors.engines.batch import BatchQueue
from rtvi_actors.engines.batch_worker import BatchWorker, Job
from rtvi_actors.errors import EngineError, EngineLostError

pytestmark = pytest.mark.unit

TextJob = Job[str, str]


class Model:
    """Works on a batch when it is told to; records the batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.queue_ns: list[int] = []
        self.threads: set[str] = set()

    def run(self, jobs: list[TextJob]) -> None:
        self.batches.append([job.request for job in jobs])
        self.queue_ns += [job.queue_ns for job in jobs]
        self.threads.add(threading.current_thread().name)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        for job in jobs:
            if job.request == "explode":
                raise ZeroDivisionError("boom")
            if job.request == "refuse":
                job.fail(EngineError("not this one"))
            for letter in job.request:
                job.emit(letter)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def worker(model):
    worker = BatchWorker("test-model", model.run, BatchQueue(max_batch=4))
    yield worker
    model.go.release(100)
    worker.close()


async def read(worker: BatchWorker[str, str], request: str, session: str = "s1") -> str:
    return "".join([piece async for piece in worker.stream(session, request)])


async def rest(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


async def begin(worker: BatchWorker[str, str], model: Model, *requests: str) -> list[asyncio.Task[str]]:
    """Let the model hang on "first" while ``requests`` of several sessions wait."""
    tasks = [asyncio.create_task(read(worker, "first", "s0"))]
    assert await asyncio.to_thread(model.begun.acquire, timeout=10)
    tasks += [asyncio.create_task(read(worker, request, f"s{n}")) for n, request in enumerate(requests, start=1)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert worker.waiting == len(requests)
    return tasks


async def test_a_lone_request_runs_alone_and_what_waits_runs_together(worker, model):
    tasks = await begin(worker, model, "ab", "cd")
    model.go.release(2)
    assert await asyncio.gather(*tasks) == ["first", "ab", "cd"]
    assert model.batches == [["first"], ["ab", "cd"]]
    assert model.threads == {"test-model"}
    assert all(waited > 0 for waited in model.queue_ns)


async def test_a_withdrawn_request_is_not_run(worker, model):
    first, unwanted, wanted = await begin(worker, model, "unwanted", "wanted")
    unwanted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unwanted
    assert worker.waiting == 1
    model.go.release(2)
    assert await asyncio.gather(first, wanted) == ["first", "wanted"]
    assert model.batches == [["first"], ["wanted"]]


async def test_closing_the_iterator_tells_the_running_job():
    seen: list[TextJob] = []

    def run(jobs: list[TextJob]) -> None:
        seen.extend(jobs)
        jobs[0].emit("a")
        while not jobs[0].withdrawn:
            time.sleep(0.001)
        jobs[0].emit("never read")

    worker: BatchWorker[str, str] = BatchWorker("test", run, BatchQueue(1))
    pieces = worker.stream("s1", "x")
    assert await anext(pieces) == "a"
    await pieces.aclose()
    assert seen[0].withdrawn
    await asyncio.to_thread(worker.close)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


async def test_a_model_that_raises_fails_its_batch_and_goes_on(worker, model, caplog):
    tasks = await begin(worker, model, "explode", "neighbour")
    model.go.release(3)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[0] == "first"
    for result in results[1:]:
        assert isinstance(result, EngineError)
        assert str(result) == "ZeroDivisionError: boom"
    assert await read(worker, "next") == "next"


async def test_one_job_fails_alone(worker, model):
    tasks = await begin(worker, model, "refuse", "neighbour")
    model.go.release(2)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], EngineError)
    assert results[2] == "neighbour"


async def test_close_fails_what_runs_and_what_waits(worker, model):
    tasks = await begin(worker, model, "waits")
    closing = asyncio.create_task(asyncio.to_thread(worker.close))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineLostError, EngineLostError]
    model.go.release(1)
    await closing
    with pytest.raises(EngineLostError):
        await read(worker, "late")
    assert model.batches == [["first"]]


async def test_an_answer_that_nobody_fetches_fails(monkeypatch):
    monkeypatch.setattr(batch_worker, "MAX_PIECES", 5)
    done = threading.Event()

    def run(jobs: list[TextJob]) -> None:
        loop = jobs[0]._loop
        while not jobs[0].withdrawn:
            jobs[0].emit("x")
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
        done.set()

    worker: BatchWorker[str, str] = BatchWorker("test", run, BatchQueue(1))
    pieces = worker.stream("s1", "x")
    assert await anext(pieces) == "x"
    assert await asyncio.to_thread(done.wait, 10)
    with pytest.raises(EngineError, match="not fetched"):
        await rest(pieces)
    await asyncio.to_thread(worker.close)
