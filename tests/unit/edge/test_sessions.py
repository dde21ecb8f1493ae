"""The doors of an edge: who is let in, and that a session that could not begin leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rtvi_actors.edge import session as session_module
from rtvi_actors.errors import CapacityError, DrainingError
from rtvi_actors.frames.types import BotState, Detach

pytestmark = pytest.mark.unit


async def test_no_place_no_session(edge: Any) -> None:
    edge.admission.places = 1
    await edge.connect()
    with pytest.raises(CapacityError, match="all places"):
        await edge.sessions.open()
    assert (edge.sessions.admitted, edge.sessions.refused) == (1, 1)


async def test_a_stage_that_refuses_gives_the_place_back(edge: Any) -> None:
    edge.stages.refusing.add("llm")
    with pytest.raises(CapacityError, match="llm refused the session: full"):
        await edge.sessions.open()
    assert edge.admission.taken == set()
    assert len(edge.stages.got("tts", Detach)) == 1
    assert edge.sessions.stats()["sessions"] == 0


async def test_a_stage_that_does_not_answer_in_time_gives_the_place_back(make_edge: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "DETACH_DEADLINE_MS", 20)
    edge = make_edge(scheduler={"attach_deadline_ms": 30})
    edge.stages.silent.add("stt")
    with pytest.raises(CapacityError, match="stt did not open the session within 30 ms"):
        await edge.sessions.open()
    assert edge.admission.released == [("s1", False)]


async def test_a_stage_that_is_not_linked_gives_the_place_back(edge: Any) -> None:
    edge.stages.up.discard("app/speaking/0")
    with pytest.raises(CapacityError, match="speaking is lost"):
        await edge.sessions.open()
    assert edge.admission.released == [("s1", False)]


async def test_a_stopping_edge_lets_nobody_in(edge: Any) -> None:
    await edge.sessions.stop(1.0)
    with pytest.raises(DrainingError):
        await edge.sessions.open()
    with pytest.raises(DrainingError):
        await edge.sessions.ready()
    assert edge.admission.given == 0


async def test_the_loss_of_an_actor_that_nobody_uses_is_no_news(edge: Any) -> None:
    await edge.connect()
    edge.sessions.on_peer("app/llm/7", False, "undialled")
    edge.sessions.on_peer("app/llm/0", True, "")
    assert edge.lost == []
    assert edge.sessions.stats()["sessions"] == 1


async def test_an_overflow_of_the_links_ends_its_session_only(edge: Any, until: Any) -> None:
    await edge.connect()
    await edge.connect()
    edge.sessions.on_overflow("s1", "too many frames wait for app/stt/0")
    await until(lambda: edge.admission.released)
    assert edge.admission.released == [("s1", False)]
    assert edge.admission.taken == {"s2"}


async def test_frames_for_nobody_are_counted(edge: Any) -> None:
    edge.stages.say("llm", BotState(state="silent"), session="gone")
    assert edge.sessions.stats()["unknown_frames"] == 1
