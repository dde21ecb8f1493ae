"""A session goes on at other stages, with what was said so far; its client notices nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rtvi_actors.edge import session as session_module
from rtvi_actors.edge.admission import Lease
from rtvi_actors.frames import snapshot
from rtvi_actors.frames.snapshot import Said
from rtvi_actors.frames.types import Attach, ClientText, Detach, Moved, Played, Remembered, TurnRequest, TurnStarted

pytestmark = pytest.mark.unit

STAGES = ("speaking", "stt", "llm", "tts")
THERE = Lease("s1", 1, {role: [f"app/{role}/1"] for role in STAGES}, "module:Bot")
CONVERSATION = [Said(1, 0, "user", "hello"), Said(1, 1, "assistant", "Hi there.")]


async def talked(edge: Any, until: Any) -> tuple[Any, Any]:
    """A session in which one turn is over."""
    session, client = await edge.connect()
    edge.stages.user_says("hello")
    edge.stages.bot_answers("Hi there.", 960)
    await until(lambda: edge.stages.got("llm", Played))
    edge.stages.say("llm", Remembered(snapshot.encode_conversation(CONVERSATION)))
    return session, client


async def test_it_goes_on_with_what_was_said(edge: Any, until: Any) -> None:
    session, client = await talked(edge, until)
    edge.admission.second = [THERE]
    before = len(client.wire)
    assert await edge.sessions.move(["s1"], 5.0) == []
    assert edge.admission.moves == [("s1", True)]
    for role in STAGES:
        (attach,) = edge.stages.got_at(f"app/{role}/1", Attach)
        assert attach.epoch == 2
        assert snapshot.decode(attach.snapshot) == snapshot.Snapshot(1, session._intake.ready, CONVERSATION)
        assert [frame.epoch for frame in edge.stages.got_at(f"app/{role}/0", Detach)] == [1]
        assert not edge.stages.got_at(f"app/{role}/1", Detach)
    # Told before it lets go: the bot there must not think that the session is over.
    old = [type(frame) for to, frame in edge.stages.sent_to if to == "app/llm/0"]
    assert old.index(Moved) < old.index(Detach)
    assert (session.lease.epoch, session.lease.route) == (2, THERE.route)
    assert len(client.wire) == before


async def test_what_comes_next_goes_to_the_new_stages_and_late_frames_of_the_old_ones_do_nothing(edge: Any, until: Any) -> None:
    _, client = await talked(edge, until)
    edge.admission.second = [THERE]
    await edge.sessions.move(["s1"], 5.0)
    client.request("send-text", {"content": "go on"})
    await until(lambda: edge.stages.got_at("app/llm/1", ClientText))
    assert edge.stages.got_at("app/speaking/1", TurnRequest)[0].epoch == 2
    assert not edge.stages.got_at("app/llm/0", ClientText)
    heard = len(client.wire)
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"), epoch=1, group="0")
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"), epoch=1, group="1")
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"), epoch=2, group="0")
    await asyncio.sleep(0.02)
    assert len(client.wire) == heard
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"), epoch=2, group="1")
    await until(lambda: len(client.wire) > heard)


async def test_it_waits_until_nobody_speaks(edge: Any, until: Any) -> None:
    await talked(edge, until)
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"))
    edge.admission.second = [THERE]
    moving = asyncio.create_task(edge.sessions.move(["s1"], 5.0))
    await asyncio.sleep(0.15)
    assert not edge.stages.got_at("app/llm/1", Attach)
    edge.stages.user_says("and now", turn=2)
    edge.stages.bot_answers("Fine.", 960, turn=2)
    assert await moving == []
    assert snapshot.decode(edge.stages.got_at("app/llm/1", Attach)[0].snapshot).turn == 2


async def test_who_never_stops_to_talk_is_told_so(edge: Any, until: Any) -> None:
    await talked(edge, until)
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"))
    assert await edge.sessions.move(["s1"], 0.05) == ["s1"]
    assert edge.admission.moves == []


async def test_stages_that_refuse_leave_it_where_it_is_and_the_next_try_has_a_higher_epoch(edge: Any, until: Any) -> None:
    session, _ = await talked(edge, until)
    edge.admission.second = [THERE]
    edge.stages.refusing.add("tts")
    assert await edge.sessions.move(["s1"], 0.0) == ["s1"]
    assert edge.admission.moves == [("s1", False)]
    assert len(edge.stages.got_at("app/llm/1", Detach)) == 1
    assert session.lease.epoch == 1
    edge.stages.refusing.clear()
    edge.admission.second = [THERE]
    assert await edge.sessions.move(["s1"], 5.0) == []
    assert [frame.epoch for frame in edge.stages.got_at("app/llm/1", Attach)] == [2, 3]
    assert session.lease.epoch == 3


async def test_somebody_who_begins_to_speak_while_it_moves_is_heard_where_it_was(edge: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "DETACH_DEADLINE_MS", 50)
    session, _ = await talked(edge, until)
    edge.admission.second = [THERE]
    edge.stages.silent.add("tts")
    moving = asyncio.create_task(edge.sessions.move(["s1"], 0.0))
    await until(lambda: edge.stages.got_at("app/llm/1", Attach))
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech"))
    edge.stages.silent.clear()
    edge.stages.say("tts", session_module.Attached(role="tts"), epoch=2, group="1")
    assert await moving == ["s1"]
    assert session.lease.epoch == 1
    assert len(edge.stages.got_at("app/llm/1", Detach)) == 1


async def test_a_session_that_ends_while_it_moves_leaves_nothing_anywhere(edge: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "DETACH_DEADLINE_MS", 50)
    _, client = await talked(edge, until)
    edge.admission.second = [THERE]
    edge.stages.silent.add("stt")
    moving = asyncio.create_task(edge.sessions.move(["s1"], 5.0))
    await until(lambda: edge.stages.got_at("app/llm/1", Attach))
    client.leave()
    edge.stages.say("stt", session_module.Attached(role="stt"), epoch=2, group="1")
    await moving
    await until(lambda: edge.sessions.stats()["sessions"] == 0)
    assert len(edge.stages.got_at("app/llm/1", Detach)) == 1
    assert len(edge.stages.got_at("app/llm/0", Detach)) == 1
    assert edge.admission.moves == [("s1", False)]


async def test_the_new_stages_die_while_it_comes(edge: Any, until: Any) -> None:
    session, _ = await talked(edge, until)
    edge.admission.second = [THERE]
    edge.stages.silent.add("llm")
    moving = asyncio.create_task(edge.sessions.move(["s1"], 0.0))
    await until(lambda: edge.stages.got_at("app/llm/1", Attach))
    edge.stages.up.discard("app/llm/1")
    edge.sessions.on_peer("app/llm/1", False, "connection closed")
    assert await moving == ["s1"]
    assert not session.failed


async def test_a_session_that_is_not_here_is_done(edge: Any) -> None:
    assert await edge.sessions.move(["s7"], 1.0) == []
