"""Stage actors in Ray: sessions over real links, their loss, and their end."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest

from rtvi_actors.errors import ConfigError, SessionLostError
from rtvi_actors.frames.types import Attached, BotState, Clause, ClientMessage, Detach, Error, Refused
from rtvi_actors.runtime.stage_actor import LlmActor, SpeakingActor, SttActor, TtsActor
from rtvi_actors.runtime.supervise import end_processes, start_time_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("no_new_processes")]

ECHO = "echo_hosts:EchoStages"


async def test_a_session_lives_in_an_actor(actors: Any, edge: Any) -> None:
    handle, facts = await actors.start(SttActor, "stt", ECHO, 4)
    assert facts["name"] == "app/stt/0"
    assert facts["node"] == "n1"
    assert psutil.Process(facts["pid"]).cmdline()[0].startswith("ray::SttActor")
    await edge.connect(facts)
    edge.attach(facts["name"], "s1", stt=[facts["name"]])
    await edge.until(lambda: bool(edge.got(Attached)))
    for number in range(200):
        edge.links.send(facts["name"], BotState(session="s1", epoch=1, turn=number, state=str(number)))
    await edge.until(lambda: len(edge.got(Clause)) == 200)
    assert [(clause.clause, clause.text, clause.session) for clause in edge.got(Clause)] == [
        (number, str(number), "s1") for number in range(200)
    ]
    [session] = await handle.sessions.remote()
    assert (session["session"], session["edge"], session["state"]) == ("s1", "edge/0", "open")
    edge.links.send(facts["name"], Detach(session="s1", epoch=1, reason="bye"))
    await edge.until(lambda: bool(edge.got(Detach)))
    assert await handle.sessions.remote() == []
    stats = await handle.stats.remote()
    assert (stats["attached"], stats["detached"], stats["delivered"], stats["sessions"]) == (1, 1, 200, 0)


async def test_a_group_of_four_and_the_death_of_one(actors: Any, edge: Any) -> None:
    started = {}
    for role, actor in (("tts", TtsActor), ("llm", LlmActor), ("stt", SttActor), ("speaking", SpeakingActor)):
        started[role] = await actors.start(actor, role, ECHO, 1)
    facts = {role: each[1] for role, each in started.items()}
    dials = {"speaking": ("stt", "llm", "tts"), "stt": ("llm",), "llm": ("tts",)}
    for role, others in dials.items():
        await started[role][0].connect.remote({facts[other]["name"]: facts[other]["path"] for other in others})
    await edge.connect(*facts.values())
    route = {role: [each["name"]] for role, each in facts.items()}
    for each in facts.values():
        edge.attach(each["name"], "s1", **route)
    await edge.until(lambda: len(edge.got(Attached)) == 4)
    assert sorted(frame.role for frame in edge.got(Attached)) == ["llm", "speaking", "stt", "tts"]
    running = started["llm"][0].run_until_stopped.remote()
    await asyncio.sleep(0.05)

    os.kill(facts["llm"]["pid"], signal.SIGKILL)
    with pytest.raises(actors.ray.exceptions.RayActorError):
        await asyncio.wait_for(running, 10)
    await edge.until(lambda: facts["llm"]["name"] in edge.downs and len(edge.got(Error)) == 3)
    assert {error.scope for error in edge.got(Error)} == {"session"}
    assert {peer for peer, frame in edge.frames if isinstance(frame, Error)} == {
        facts[role]["name"] for role in ("speaking", "stt", "tts")
    }
    for role in ("speaking", "stt", "tts"):
        assert await started[role][0].sessions.remote() == []


async def test_a_stage_that_does_not_open_is_refused(actors: Any, edge: Any) -> None:
    handle, facts = await actors.start(TtsActor, "tts", ECHO, 1)
    await edge.connect(facts)
    edge.attach(facts["name"], "s1", bot="refuse")
    await edge.until(lambda: bool(edge.got(Refused)))
    assert edge.got(Refused)[0].reason == "run: rtvi-actors models prepare"
    assert await handle.sessions.remote() == []


async def test_the_loss_of_the_edge_ends_its_sessions(actors: Any, edge: Any) -> None:
    handle, facts = await actors.start(SttActor, "stt", ECHO, 1)
    await edge.connect(facts)
    edge.attach(facts["name"], "s1")
    await edge.until(lambda: bool(edge.got(Attached)))
    await edge.links.close()
    for _ in range(400):
        if not await handle.sessions.remote():
            break
        await asyncio.sleep(0.01)
    assert await handle.sessions.remote() == []


async def test_stop_tells_the_edge_and_leaves_nothing(actors: Any, edge: Any) -> None:
    handle, facts = await actors.start(SttActor, "stt", ECHO, 1)
    process = psutil.Process(facts["pid"])
    await edge.connect(facts)
    edge.attach(facts["name"], "s1")
    await edge.until(lambda: bool(edge.got(Attached)))
    running = handle.run_until_stopped.remote()
    assert await handle.set_niceness.remote(3) == 3
    with pytest.raises(actors.ray.exceptions.ActorDiedError, match="INTENDED"):
        await asyncio.wait_for(handle.stop.remote(), 10)
    assert await asyncio.wait_for(running, 10) is None
    await edge.until(lambda: bool(edge.got(Error)))
    assert edge.got(Error)[0].text == "the actor is stopped"
    await edge.until(lambda: not process.is_running())
    assert facts["path"] not in actors.sockets()


async def test_a_frozen_actor_is_ended(actors: Any, edge: Any) -> None:
    handle, facts = await actors.start(SttActor, "stt", ECHO, 1)
    await edge.connect(facts)
    edge.attach(facts["name"], "s1")
    await edge.until(lambda: bool(edge.got(Attached)))
    running = handle.run_until_stopped.remote()
    await asyncio.sleep(0.05)
    targets = {facts["pid"]: start_time_of(facts["pid"])}
    os.kill(facts["pid"], signal.SIGSTOP)
    await edge.until(lambda: facts["name"] in edge.downs)  # the heartbeat is silent; Ray notices nothing
    assert await asyncio.to_thread(end_processes, targets, 0.0) == []
    with pytest.raises(actors.ray.exceptions.RayActorError):
        await asyncio.wait_for(running, 10)


async def test_a_busy_stage_is_not_taken_for_a_dead_one(actors: Any, edge: Any) -> None:
    _, facts = await actors.start(LlmActor, "llm", ECHO, 1)
    await edge.connect(facts)
    edge.attach(facts["name"], "s1")
    await edge.until(lambda: bool(edge.got(Attached)))
    edge.links.send(facts["name"], ClientMessage(session="s1", epoch=1, id="1", type="block", data=b"1.6"))
    edge.links.send(facts["name"], BotState(session="s1", epoch=1, turn=1, state="after"))
    await edge.until(lambda: bool(edge.got(Clause)))
    assert edge.downs == []


async def test_a_peer_that_is_not_there(actors: Any) -> None:
    handle, _ = await actors.start(SttActor, "stt", ECHO, 1)
    with pytest.raises(SessionLostError, match=r"no link from app/stt/0 to app/llm/9"):
        await asyncio.wait_for(handle.connect.remote({"app/llm/9": str(actors.folder / "nobody.sock")}, None, 0.3), 30)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("echo_hosts:NoSuchStages", "has no class NoSuchStages"),
        ("no_such_module:Stages", "cannot import no_such_module"),
    ],
)
async def test_a_wrong_host_class_is_said_clearly(actors: Any, host: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        await actors.start(SttActor, "stt", host, 1)
