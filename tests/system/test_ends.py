"""Sessions that end by themselves: they say why, say what they had to say, and leave nothing behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rtvi_actors.errors import CapacityError
from rtvi_actors.testing.client import RtviClient

pytestmark = pytest.mark.system

BOT = """
import rtvi_actors as ra


class Host(ra.Bot):
    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str | None:
        if turn.text == "goodbye":
            session.end("We close now.")
            return "It was nice to talk to you. Come back soon."
        return None
"""


@pytest.fixture(scope="module")
def host(start_app: Any, config_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An app that does not wait long."""
    file = tmp_path_factory.mktemp("bots") / "host.py"
    file.write_text(BOT)
    session = {"idle_prompt": "Are you still there?", "idle_prompt_after_ms": 2_000, "idle_end_after_ms": 5_000}
    with start_app(config_file("dense.toml", bot={"class": f"{file}:Host"}, session=session)) as running:
        yield running


async def end(client: RtviClient) -> tuple[str, str]:
    """Wait for the end: its reason, and the error that tells it to people ("" for none)."""
    ended = await client.wait(lambda message: message.type == "server-message" and message.data["type"] == "session-ended")
    async with asyncio.timeout(30):
        while not client.closed:
            await asyncio.sleep(0.02)
    assert client._socket.close_code == 1000
    after = client.messages[client.messages.index(ended) + 1 :]
    if not after:
        return ended.data["reason"], ""
    (error,) = after
    assert error.type == "error"
    assert error.data["fatal"] is True
    return ended.data["reason"], error.data["message"]


def spoken(client: RtviClient) -> str:
    return " ".join(message.data["text"] for message in client.messages if message.type == "bot-tts-text")


async def no_session(app: Any, eventually: Any) -> None:
    async def none() -> bool:
        return not (await asyncio.to_thread(app.status))["sessions"]

    await eventually(none, "its place is free again")


async def test_a_silent_user_is_asked_and_then_left(host: Any, connected: Any, eventually: Any) -> None:
    async with connected(host.ws_url, microphone=True) as client:
        assert await end(client) == ("idle", "Nobody said anything for 5 s.")
        assert spoken(client) == "Are you still there?"
        types = [message.type for message in client.messages]
        assert types.index("bot-stopped-speaking") < types.index("server-message")
    await no_session(host, eventually)


async def test_who_answers_the_prompt_may_stay(host: Any, connected: Any, answered: Any) -> None:
    async with connected(host.ws_url) as client:
        await client.wait_type("bot-stopped-speaking")
        await answered(client, "I am here")
        await client.wait(lambda message: spoken(client).count("still there") == 2)
        assert await end(client) == ("idle", "Nobody said anything for 5 s.")


async def test_disconnect_bot_behind_a_typed_text_waits_for_its_answer(host: Any, connected: Any, eventually: Any) -> None:
    async with connected(host.ws_url) as client:
        utterance = client.send_text("one last question")
        client.send("disconnect-bot")
        assert await end(client) == ("disconnect-bot", "")
        turn = client.heard(utterance)
        assert "one last question" in turn.answer
        assert spoken(client).split() == turn.answer.split(), "said to its end"
    await no_session(host, eventually)


async def test_disconnect_bot_while_silent_is_quick(host: Any, connected: Any) -> None:
    async with connected(host.ws_url) as client:
        client.send("disconnect-bot")
        assert await end(client) == ("disconnect-bot", "")
        assert spoken(client) == ""


async def test_the_bot_says_goodbye_and_hangs_up(host: Any, connected: Any, eventually: Any) -> None:
    async with connected(host.ws_url) as client:
        client.send_text("goodbye")
        assert await end(client) == ("bot-ended", "We close now.")
        assert spoken(client) == "It was nice to talk to you. Come back soon."
    await no_session(host, eventually)


async def test_a_burst_of_typed_texts_loses_none_without_a_word(host: Any, connected: Any) -> None:
    async with connected(host.ws_url) as client:
        first = len(client.messages)
        sent = {client.send("send-text", {"content": f"text {number}"}): f"text {number}" for number in range(200)}

        def settled() -> tuple[set[str], set[str]]:
            new = client.messages[first:]
            refused = {message.id for message in new if message.type == "error-response" and message.id in sent}
            echoed = {message.data["msg_id"] for message in new if message.type == "user-input"}
            return refused, echoed

        await client.wait(lambda _: sum(map(len, settled())) == len(sent))
        refused, echoed = settled()
        assert refused | echoed == set(sent)
        assert not refused & echoed
        client.send_text("and one more")
        asked = await client.wait(lambda message: message.type == "user-llm-text" and "and one more" in message.data["text"])
        await client.wait_type("bot-started-speaking", start=client.messages.index(asked))
        assert not [message for message in client.messages if message.type == "error"]


async def test_the_longest_session_is_told_before_it_ends(
    start_app: Any, config_file: Any, connected: Any, eventually: Any
) -> None:
    session = {"max_session_ms": 6_000, "warning_ms": 3_000}
    with start_app(config_file("dense.toml", session=session)) as app:
        async with connected(app.ws_url) as client:
            warning = await client.wait_type("server-message")
            assert warning.data["type"] == "session-ending"
            assert 0 < warning.data["ends_in_ms"] <= 3_000
            client.send_text("What else is there?")
            reason, text = await end(client)
            assert (reason, text) == ("max-session", "A session lasts 6 s at most.")
        await no_session(app, eventually)


async def test_a_drained_app_lets_nobody_in_and_its_sessions_end_in_time(
    start_app: Any, config_file: Any, connected: Any, answered: Any
) -> None:
    with start_app(config_file("dense.toml")) as app:
        command = [sys.executable, "-m", "rtvi_actors.cli.main", "drain", "--app", app.name, "--timeout", "6"]
        async with connected(app.ws_url) as client:
            draining = asyncio.create_task(asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False))
            warning = await client.wait_type("server-message")
            assert (warning.data["type"], warning.data["reason"]) == ("session-ending", "draining")
            assert 0 < warning.data["ends_in_ms"] <= 6_000
            with pytest.raises(CapacityError, match="drained"):
                await RtviClient(app.ws_url).__aenter__()
            await answered(client, "One more question")
            assert await end(client) == ("draining", "The server is being emptied.")
        done = await draining
        assert (done.returncode, done.stdout.split(":")[0]) == (0, f"drained {app.name}"), done.stderr
        facts = await asyncio.to_thread(app.status)
        assert (facts["draining"], facts["sessions"]) == (True, [])


async def test_sigterm_waits_for_the_sessions_where_it_is_told_to(
    start_app: Any, config_file: Any, connected: Any, answered: Any
) -> None:
    with start_app(config_file("dense.toml", scheduler={"drain_timeout_s": 600})) as app:
        async with connected(app.ws_url) as client, connected(app.ws_url) as other:
            app.process.send_signal(signal.SIGTERM)
            await refused(app.ws_url)
            await answered(client, "Are you still there?")
            client.send("disconnect-bot")
            assert await end(client) == ("disconnect-bot", "")
            assert app.process.poll() is None, "the other session goes on"
            app.process.send_signal(signal.SIGTERM)
            ended = await other.wait(lambda message: message.type == "server-message")
            assert ended.data["reason"] == "server-stopping", "a second signal does not wait"
        assert await asyncio.to_thread(app.process.wait, 60) == 0


async def refused(url: str) -> None:
    """Wait until nobody is let in."""
    refusal = ""
    async with asyncio.timeout(30):
        while not refusal:
            try:
                async with RtviClient(url):
                    await asyncio.sleep(0.1)
            except CapacityError as error:
                refusal = error.detail
    assert "drained" in refusal
