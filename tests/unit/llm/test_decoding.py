"""One thread, all answers one step at a time: who joins, leaves, fails, and what is done when nobody asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from rtvi_actors.errors import EngineError, EngineLostError
from rtvi_actors.llm.decoding import Answer, Outcome, StepWorker
from rtvi_actors.llm.engine import ChatMessage, LlmRequest

pytestmark = pytest.mark.unit

END = 0


class Prompt:
    """A token is a number, and its text "<number> "."""

    end_ids = (END,)

    def encode(self, messages: list[ChatMessage]) -> Any:
        return SimpleNamespace(ids=[int(message.content) for message in messages])

    def detokenizer(self) -> Any:
        return SimpleNamespace(push=lambda token: f"{token} ")


class Countdown:
    """Answers with the numbers below the prompt, down to the end mark. Steps only when it is let."""

    def __init__(self) -> None:
        self.steps = threading.Semaphore(0)
        self.joined: list[Answer] = []
        self.log: list[str] = []
        self.work_ahead = 0
        self.breaks_at: int | None = None

    def join(self, answer: Answer) -> None:
        if answer.prompt == [99]:
            raise ValueError("too long")
        self.joined.append(answer)
        self.log.append(f"join {answer.job.session}")

    def step(self) -> Iterator[tuple[Answer, Outcome]]:
        self.steps.acquire(timeout=1)
        self.log.append("step " + "".join(answer.job.session for answer in self.joined))
        for answer in list(self.joined):
            token = answer.prompt[0] - len(answer.said) - 1
            if token == self.breaks_at:
                raise RuntimeError("broken")
            if token == 7:
                yield answer, EngineError("seven cannot be said")
            else:
                yield answer, [token]

    def leave(self, answer: Answer) -> None:
        self.joined.remove(answer)
        self.log.append(f"leave {answer.job.session}{' complete' if answer.complete else ''}")

    def look_ahead(self) -> bool:
        if not self.work_ahead:
            return False
        self.work_ahead -= 1
        self.log.append("ahead")
        return self.work_ahead > 0


@pytest.fixture
def model() -> Countdown:
    return Countdown()


@pytest.fixture
def worker(model: Countdown) -> Iterator[StepWorker]:
    made = StepWorker("countdown", model, Prompt(), max_batch=2)  # type: ignore[arg-type]
    yield made
    model.steps.release(100)
    made.close()


def ask(number: int, max_tokens: int = 20) -> LlmRequest:
    return LlmRequest([ChatMessage("user", str(number))], max_tokens)


async def text_of(worker: StepWorker, session: str, number: int, max_tokens: int = 20) -> str:
    async with aclosing(worker.stream(session, ask(number, max_tokens))) as pieces:
        return "".join([piece.text async for piece in pieces])


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_requests_join_and_leave_between_steps(worker: StepWorker, model: Countdown) -> None:
    first = asyncio.create_task(text_of(worker, "a", 4))
    await until(lambda: model.log == ["join a"])
    others = [asyncio.create_task(text_of(worker, session, 3)) for session in "bc"]
    await asyncio.sleep(0)
    model.steps.release(20)
    assert await first == "3 2 1 "
    assert await asyncio.gather(*others) == ["2 1 ", "2 1 "]
    await until(lambda: model.log[-1] == "leave c complete")
    assert "step ab" in model.log
    assert "step abc" not in model.log, "only two at a time"


async def test_one_that_fails_fails_alone(worker: StepWorker, model: Countdown) -> None:
    model.steps.release(20)
    with pytest.raises(EngineError, match="too long"):
        await text_of(worker, "x", 99)
    failing, other = (asyncio.create_task(text_of(worker, session, number)) for session, number in (("a", 9), ("b", 3)))
    with pytest.raises(EngineError, match="seven"):
        await failing
    assert await other == "2 1 "


async def test_a_step_that_breaks_fails_those_in_it_and_the_worker_goes_on(worker: StepWorker, model: Countdown) -> None:
    model.breaks_at = 4
    model.steps.release(20)
    with pytest.raises(EngineError, match="broken"):
        await text_of(worker, "a", 6)
    assert await text_of(worker, "b", 3) == "2 1 "


async def test_a_length_ends_an_answer(worker: StepWorker, model: Countdown) -> None:
    model.steps.release(20)
    assert await text_of(worker, "a", 6, max_tokens=2) == "5 4 "


async def test_who_leaves_is_withdrawn_before_the_next_step(worker: StepWorker, model: Countdown) -> None:
    async with aclosing(worker.stream("a", ask(6))) as pieces:
        model.steps.release(1)
        await anext(pieces)
    model.steps.release(1)  # the one that had begun
    await until(lambda: model.log[-1] == "leave a")
    assert not worker.busy


async def test_it_looks_ahead_only_while_nobody_asks(worker: StepWorker, model: Countdown) -> None:
    model.work_ahead = 3
    first = asyncio.create_task(text_of(worker, "a", 2))
    await until(lambda: model.log == ["join a"])
    model.steps.release(20)
    assert await first == "1 "
    await until(lambda: model.work_ahead == 0)
    assert model.log == ["join a", "step a", "step a", "leave a complete", "ahead", "ahead", "ahead"]


async def test_closing_fails_what_runs(model: Countdown) -> None:
    worker = StepWorker("countdown", model, Prompt(), max_batch=2)  # type: ignore[arg-type]
    running = asyncio.create_task(text_of(worker, "a", 5))
    await until(lambda: model.log == ["join a"])
    model.steps.release(1)
    await asyncio.to_thread(worker.close)
    with pytest.raises(EngineLostError):
        await running
    with pytest.raises(EngineLostError):
        await text_of(worker, "b", 5)
