"""The scheduler seen from an edge: its answers, its silence and its absence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.exceptions

from rtvi_actors.edge import scheduler_client
from rtvi_actors.edge.scheduler_client import SchedulerClient
from rtvi_actors.errors import CapacityError

pytestmark = pytest.mark.unit

LEASE = {"session": "s1", "epoch": 1, "route": {"llm": ["app/llm/0"]}, "bot": "module:Bot"}


class FakeScheduler:
    """Each method is answered by a function that a test sets; calls are recorded."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Callable[[], Awaitable[Any]]] = {}

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any) -> Any:
            self.calls.append((method, *args))
            return await self.answers[method]()

        return SimpleNamespace(remote=call)


def gives(value: Any) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        return value

    return answer


def fails(error: Exception) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        raise error

    return answer


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    fake = FakeScheduler()
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: fake)
    return fake


@pytest.fixture
def client() -> SchedulerClient:
    return SchedulerClient("app/scheduler", "app", "app/edge/0")


async def test_a_place(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers = {"admit": gives(LEASE), "release": gives(None), "ready": gives(True)}
    lease = await client.admit()
    assert (lease.session, lease.epoch, lease.route, lease.bot) == ("s1", 1, {"llm": ["app/llm/0"]}, "module:Bot")
    await client.ready()
    await client.release("s1", clean=True)
    assert scheduler.calls == [("admit", "app/edge/0"), ("ready", "app/edge/0"), ("release", "s1", True, True)]


async def test_no_place(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers = {"admit": gives({"refused": "all 4 sessions are in use", "retry_after_ms": 700}), "ready": gives(False)}
    with pytest.raises(CapacityError, match="all 4 sessions are in use") as refusal:
        await client.admit()
    assert refusal.value.retry_after_ms == 700
    with pytest.raises(CapacityError):
        await client.ready()


async def test_no_scheduler(client: SchedulerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, namespace: str) -> Any:
        raise ValueError(f"Failed to look up actor with name '{name}'")

    monkeypatch.setattr(ray, "get_actor", missing)
    for ask in (client.admit, client.ready):
        with pytest.raises(CapacityError, match="not there"):
            await ask()
    await client.release("s1", clean=True)
    client.report_lost("app/llm/0", "closed")
    await client.close()


async def test_a_scheduler_that_died_is_looked_up_again(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers["admit"] = fails(ray.exceptions.RayActorError())
    with pytest.raises(CapacityError, match="not there"):
        await client.admit()
    scheduler.answers["admit"] = gives(LEASE)
    assert (await client.admit()).session == "s1"


async def test_a_place_that_comes_too_late_is_given_back(
    scheduler: FakeScheduler, client: SchedulerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_client, "DEADLINE_S", 0.02)
    late = asyncio.Event()

    async def answer() -> Any:
        await late.wait()
        return LEASE

    scheduler.answers = {"admit": answer, "release": gives(None)}
    with pytest.raises(CapacityError, match="did not answer"):
        await client.admit()
    late.set()
    await client.close()
    assert scheduler.calls == [("admit", "app/edge/0"), ("release", "s1", True, False)]


async def test_a_place_that_nobody_waits_for_any_more_is_given_back(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    may_answer = asyncio.Event()

    async def answer() -> Any:
        await may_answer.wait()
        return LEASE

    scheduler.answers = {"admit": answer, "release": gives(None)}
    asking = asyncio.create_task(client.admit())
    async with asyncio.timeout(5):
        while not scheduler.calls:
            await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    may_answer.set()
    await client.close()
    assert scheduler.calls[-1] == ("release", "s1", True, False)


async def test_a_silent_scheduler_delays_a_release_by_its_deadlines_only(
    scheduler: FakeScheduler, client: SchedulerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_client, "DEADLINE_S", 0.02)
    never = asyncio.Event()

    async def answer() -> Any:
        await never.wait()

    scheduler.answers = {"release": answer, "ready": answer}
    await client.release("s1", clean=False)
    assert scheduler.calls == [("release", "s1", False, True)] * scheduler_client.RELEASE_ATTEMPTS
    with pytest.raises(CapacityError, match="did not answer"):
        await client.ready()


async def test_a_lost_actor_is_reported(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers["report_lost"] = gives(None)
    client.report_lost("app/llm/0", "silent for 1,000 ms")
    await client.close()
    assert scheduler.calls == [("report_lost", "app/llm/0", "silent for 1,000 ms")]


async def test_a_second_place(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers = {"move": gives(LEASE), "moved": gives(None)}
    assert (await client.move("s1")).route == LEASE["route"]
    await client.moved("s1", done=True)
    scheduler.answers["move"] = gives({"refused": "no other stage group is free", "retry_after_ms": 1})
    with pytest.raises(CapacityError, match="no other"):
        await client.move("s1")
    assert scheduler.calls == [("move", "s1"), ("moved", "s1", True), ("move", "s1")]


async def test_a_place_at_another_edge(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers["reserve"] = gives({"token": "1.x", "url": "http://10.0.0.2:7860"})
    reserved = await client.reserve("b:Bot", b"{}")
    assert reserved is not None
    assert (reserved.token, reserved.url) == ("1.x", "http://10.0.0.2:7860")
    for nothing in (gives(None), fails(ray.exceptions.RayActorError())):
        scheduler.answers["reserve"] = nothing
        assert await client.reserve("", b"") is None


async def test_a_claimed_place(scheduler: FakeScheduler, client: SchedulerClient) -> None:
    scheduler.answers["claim"] = gives({"lease": LEASE, "bot": "b:Bot", "body": b"{}"})
    claimed = await client.claim("1.x")
    assert claimed is not None
    assert (claimed[0].session, *claimed[1:]) == ("s1", "b:Bot", b"{}")
    assert scheduler.calls == [("claim", "1.x", "app/edge/0")]
    scheduler.answers["claim"] = gives(None)
    assert await client.claim("1.y") is None


async def test_a_claimed_place_that_comes_too_late_is_given_back(
    scheduler: FakeScheduler, client: SchedulerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_client, "DEADLINE_S", 0.02)
    late = asyncio.Event()

    async def answer() -> Any:
        await late.wait()
        return {"lease": LEASE, "bot": "", "body": b""}

    scheduler.answers = {"claim": answer, "release": gives(None)}
    with pytest.raises(CapacityError, match="did not answer"):
        await client.claim("1.x")
    late.set()
    async with asyncio.timeout(5):
        while ("release", "s1", True, False) not in scheduler.calls:
            await asyncio.sleep(0.002)
