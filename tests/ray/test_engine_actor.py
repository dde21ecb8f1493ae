"""Engine actors in Ray: a stage asks over real links, the engine dies, stops, or cannot load."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest

from rtvi_actors.engines.actor import LlmEngine
from rtvi_actors.errors import ConfigError, ModelMissingError
from rtvi_actors.frames.types import Attached, Clause, ClientMessage, Detach, Error
from rtvi_actors.runtime.stage_actor import LlmActor

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_new_processes")]

BACKEND = "echo_hosts:EchoBackend"


async def stage_with_engine(actors: Any, edge: Any) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    """An engine, a stage that is linked to it, and the session s1 in it."""
    engine, engine_facts = await actors.start(LlmEngine, "llm", BACKEND, name="app/engine/llm/0")
    stage, stage_facts = await actors.start(LlmActor, "llm", "echo_hosts:EchoStages", 2)
    await stage.connect.remote({engine_facts["name"]: engine_facts["path"]})
    await edge.connect(stage_facts)
    edge.attach(stage_facts["name"], "s1", llm=[stage_facts["name"]], engine_llm=[engine_facts["name"]])
    await edge.until(lambda: bool(edge.got(Attached)))
    return engine, engine_facts, stage, stage_facts


def ask(edge: Any, stage: dict[str, Any], text: str) -> None:
    edge.links.send(stage["name"], ClientMessage(session="s1", epoch=1, id="1", type="ask", data=text.encode()))


async def test_a_stage_asks_and_reads_the_answer(actors: Any, edge: Any) -> None:
    engine, facts, _, stage_facts = await stage_with_engine(actors, edge)
    assert (facts["memory_bytes"], facts["name"], facts["load_ms"] >= 0) == (1_234, "app/engine/llm/0", True)
    assert psutil.Process(facts["pid"]).cmdline()[0].startswith("ray::LlmEngine")
    ask(edge, stage_facts, "one two three")
    await edge.until(lambda: len(edge.got(Clause)) == 3)
    assert [clause.text for clause in edge.got(Clause)] == ["one", "two", "three"]
    stats = await engine.stats.remote()
    assert (stats["done"], stats["in_flight"], stats["sessions"]) == (1, 0, 1)


async def test_the_end_of_a_session_reaches_the_engine(actors: Any, edge: Any) -> None:
    engine, _, _, stage_facts = await stage_with_engine(actors, edge)
    ask(edge, stage_facts, "one wait")
    await edge.until(lambda: len(edge.got(Clause)) == 2)
    assert (await engine.stats.remote())["in_flight"] == 1
    edge.links.send(stage_facts["name"], Detach(session="s1", epoch=1, reason="bye"))
    await edge.until(lambda: bool(edge.got(Detach)))
    for _ in range(400):
        stats = await engine.stats.remote()
        if not stats["in_flight"]:
            break
        await asyncio.sleep(0.01)
    assert (stats["in_flight"], stats["cancelled"], stats["sessions"]) == (0, 1, 0)


async def test_the_death_of_an_engine_fails_the_request_at_once_and_the_session_goes_on(actors: Any, edge: Any) -> None:
    _, facts, stage, stage_facts = await stage_with_engine(actors, edge)
    ask(edge, stage_facts, "one wait")
    await edge.until(lambda: len(edge.got(Clause)) == 2)
    os.kill(facts["pid"], signal.SIGKILL)
    await edge.until(lambda: bool(edge.got(Error)))
    [error] = edge.got(Error)
    assert (error.scope, error.retryable, error.text) == ("turn", True, "the engine/llm is gone")
    ask(edge, stage_facts, "again")  # nobody is there: it must not wait for its time-out
    await edge.until(lambda: len(edge.got(Error)) == 2)
    assert len(await stage.sessions.remote()) == 1

    # A new process under the same name and path is found again without anybody's help.
    remote = actors.ray.remote(LlmEngine).options(num_cpus=0.001, max_concurrency=100)
    again = remote.remote("llm", facts["name"], facts["path"], "n1", BACKEND, actors.config())
    actors.handles.append(again)
    await asyncio.wait_for(again.start.remote(), 60)
    for _ in range(400):
        ask(edge, stage_facts, "back")
        await asyncio.sleep(0.05)
        if any(clause.text == "back" for clause in edge.got(Clause)):
            break
    assert edge.got(Clause)[-1].text == "back"


async def test_stop_leaves_nothing(actors: Any) -> None:
    handle, facts = await actors.start(LlmEngine, "llm", BACKEND)
    process = psutil.Process(facts["pid"])
    running = handle.run_until_stopped.remote()
    await handle.ping.remote()
    with pytest.raises(actors.ray.exceptions.ActorDiedError, match="INTENDED"):
        await asyncio.wait_for(handle.stop.remote(), 10)
    assert await asyncio.wait_for(running, 10) is None
    process.wait(5)
    assert facts["path"] not in actors.sockets()


async def test_a_model_that_is_not_prepared(actors: Any) -> None:
    with pytest.raises(ModelMissingError, match="rtvi-actors models prepare"):
        await actors.start(LlmEngine, "llm", "echo_hosts:MissingBackend")


async def test_a_backend_that_does_not_exist(actors: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"llm.backend = 'gpt': allowed are ctranslate2, openai, openvino, transformers or module:Class"
    ):
        await actors.start(LlmEngine, "llm", "gpt")
