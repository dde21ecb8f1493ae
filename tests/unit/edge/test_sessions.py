"""The doors of an edge: who is let in, and that a session that could not begin leaves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rtvi_actors.edge import session as session_module
from rtvi_actors.edge import sessions as sessions_module
from rtvi_actors.edge.admission import Lease, Reserved
from rtvi_actors.edge.session import Wanted
from rtvi_actors.errors import AuthError, CapacityError, DrainingError
from rtvi_actors.frames.types import Attach, BotState, Detach

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


async def test_a_reserved_place_is_kept_for_its_token(edge: Any) -> None:
    edge.admission.places = 1
    token = await edge.sessions.reserve(Wanted("apps:Shop", b'{"user": 1}'))
    for stranger in ("", token[:-1], token + "x"):
        with pytest.raises(CapacityError if not stranger else AuthError):
            await edge.sessions.open(stranger)
    session, _ = await edge.connect(token)
    assert session.lease.session == "s1"
    (attach,) = edge.stages.got("llm", Attach)
    assert (attach.bot, attach.body) == ("apps:Shop", b'{"user": 1}')
    (attach,) = edge.stages.got("tts", Attach)
    assert (attach.bot, attach.body) == ("apps:Shop", b"")
    with pytest.raises(AuthError, match="used"):
        await edge.sessions.open(token)
    assert edge.sessions.stats()["reserved"] == 0


async def test_a_reserved_place_that_nobody_takes_goes_back_unused(edge: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sessions_module, "RESERVED_S", 0.02)
    token = await edge.sessions.reserve(Wanted())
    assert edge.admission.taken == {"s1"}
    await until(lambda: edge.admission.unused == ["s1"])
    assert edge.stages.sent == []
    with pytest.raises(AuthError, match="expired"):
        await edge.sessions.open(token)


async def test_tokens_cannot_be_guessed_and_differ(edge: Any) -> None:
    tokens = [await edge.sessions.reserve(Wanted()) for _ in range(4)]
    assert len(set(tokens)) == 4
    assert min(map(len, tokens)) >= 32
    with pytest.raises(CapacityError):
        await edge.sessions.reserve(Wanted())
    assert edge.sessions.refused == 1


async def test_a_stopping_edge_gives_reserved_places_back(edge: Any) -> None:
    await edge.sessions.reserve(Wanted())
    await edge.sessions.stop(1.0)
    assert edge.admission.unused == ["s1"]
    with pytest.raises(DrainingError):
        await edge.sessions.reserve(Wanted())


async def test_a_drained_edge_lets_in_only_who_has_a_place_and_tells_all_when_they_end(edge: Any, until: Any) -> None:
    token = await edge.sessions.reserve(Wanted())
    _, client = await edge.connect()
    edge.sessions.drain(8_000)
    for door in (edge.sessions.open, lambda: edge.sessions.reserve(Wanted()), edge.sessions.ready):
        with pytest.raises(DrainingError, match="drained"):
            await door()
    _, late = await edge.connect(token)
    for told in (client, late):
        await until(lambda told=told: "server-message" in told.types)
        (warning,) = [message["data"] for message in told.messages if message["type"] == "server-message"]
        assert (warning["type"], warning["reason"]) == ("session-ending", "draining")
        assert 0 < warning["ends_in_ms"] <= 8_000
    edge.sessions.drain(0)
    await edge.over()
    for told in (client, late):
        assert [message["data"]["reason"] for message in told.messages if message["type"] == "server-message"] == ["draining"] * 2
    assert sorted(edge.admission.released) == [("s1", True), ("s2", True)]


async def test_a_start_may_be_required(make_edge: Any) -> None:
    edge = make_edge(edge={"require_start": True})
    with pytest.raises(AuthError, match="POST /start"):
        await edge.sessions.open()
    assert edge.admission.given == 0
    await edge.connect(await edge.sessions.reserve(Wanted()))
    await edge.sessions.stop(1.0)
    await edge.over()


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


async def test_a_token_of_another_edge_is_claimed_there(edge: Any) -> None:
    lease = Lease("s9", 1, {role: [f"app/{role}/0"] for role in ("speaking", "stt", "llm", "tts")}, "module:Bot")
    edge.admission.claims["3.abc"] = (lease, "apps:Shop", b'{"user": 2}')
    session, _ = await edge.connect("3.abc")
    assert session.lease.session == "s9"
    (attach,) = edge.stages.got("llm", Attach)
    assert (attach.bot, attach.body) == ("apps:Shop", b'{"user": 2}')
    with pytest.raises(AuthError):
        await edge.sessions.open("3.abc")


@pytest.mark.parametrize("token", ["0.abc", "abc", ".abc", "x.abc", "-1.abc", f"3.{'a' * 64}", "3²."])
async def test_a_token_that_no_edge_made_is_not_asked_for(edge: Any, token: str) -> None:
    edge.admission.claims[token] = None
    with pytest.raises(AuthError):
        await edge.sessions.open(token)
    assert token in edge.admission.claims


async def test_a_place_that_was_given_up_is_gone(edge: Any) -> None:
    token = await edge.sessions.reserve(Wanted("apps:Shop", b"{}"))
    lease, wanted = edge.sessions.give_up(token)
    assert (lease.session, wanted.bot) == ("s1", "apps:Shop")
    assert edge.sessions.give_up(token) is None
    with pytest.raises(AuthError):
        await edge.sessions.open(token)
    assert edge.admission.released == []


async def test_a_start_is_sent_to_an_emptier_edge_but_not_through_a_load_balancer(make_edge: Any) -> None:
    edge = make_edge()
    edge.admission.elsewhere = Reserved("1.abc", "http://10.0.0.2:7860")
    assert await edge.sessions.reserve_anywhere(Wanted()) == ("1.abc", "http://10.0.0.2:7860")
    assert edge.admission.given == 0
    edge = make_edge(edge={"public_url": "https://voice.example"})
    edge.admission.elsewhere = Reserved("1.abc", "http://10.0.0.2:7860")
    token, url = await edge.sessions.reserve_anywhere(Wanted())
    assert url == ""
    assert token.startswith("0.")
