"""A whole session in one process: what an application's own tests rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import rtvi_actors as ra
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.inline import Call

pytestmark = pytest.mark.unit


class Concierge(ra.Bot):
    instructions = "You are a hotel concierge."

    async def on_start(self, session: ra.Session) -> None:
        await session.say("Good evening, how can I help?")

    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str | None:
        return "Breakfast is from seven to ten." if "breakfast" in turn.text.lower() else None


def test_a_conversation() -> None:
    with Call(Concierge, answers=["It is a fine day."]) as call:
        assert call.listen() == "Good evening, how can I help?"
        reply = call.say("When is breakfast?")
        assert reply.transcript == "When is breakfast?"
        assert reply.answer == reply.heard == "Breakfast is from seven to ten."
        assert call.type("How is the weather?").answer == "It is a fine day."
        roles = [(message.role, message.content) for message in call.context]
        assert roles == [
            ("system", "You are a hotel concierge."),
            ("assistant", "Good evening, how can I help?"),
            ("user", "When is breakfast?"),
            ("assistant", "Breakfast is from seven to ten."),
            ("user", "How is the weather?"),
            ("assistant", "It is a fine day."),
        ]
        assert [message.content for message in call.prompts[0]][-1] == "How is the weather?"


def test_an_interruption_leaves_what_was_heard() -> None:
    with Call(answers=["One two three, four five six seven eight nine ten eleven twelve thirteen.", "Fine."]) as call:
        call.say("Count for me, please.", until="speaking")
        call.advance(1_500)
        reply = call.say("That is enough, thank you.")
        assert reply.interrupted
        assert reply.answer == "Fine."
        heard = next(message.content for message in call.context if message.role == "assistant")
        assert heard.startswith("One two three")
        assert "thirteen" not in heard


def test_time_moves_when_told_and_only_then() -> None:
    class Slow(ra.Bot):
        async def on_turn(self, session: ra.Session, turn: ra.Turn) -> AsyncIterator[str]:
            yield "A moment. "
            await asyncio.sleep(8)
            yield "Here it is."

    with Call(Slow) as call:
        before_ms = call.now_ms
        call.advance(5_000)
        assert call.now_ms - before_ms == 5_000
        assert call.say("Where is it?").answer == "A moment. Here it is."
        assert call.now_ms - before_ms > 13_000


def test_a_hook_that_is_a_plain_function() -> None:
    class Plain(ra.Bot):
        def on_turn(self, session: ra.Session, turn: ra.Turn) -> str:  # type: ignore[override]
            return f"You said {turn.text}"

    with Call(Plain) as call:
        assert call.say("Hello there, bot.").answer == "You said Hello there, bot."


def test_errors_of_the_bot_are_told() -> None:
    class Broken(ra.Bot):
        async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str:
            raise ValueError("no such room")

    with Call(Broken) as call:
        assert call.say("Which room is mine?").errors == ["on_turn of Broken failed: ValueError: no such room"]


def test_the_model_is_a_function_of_the_prompt() -> None:
    with Call(answers=lambda messages: f"{len(messages)} messages.") as call:
        assert call.say("How many of them are there?").answer == "2 messages."
        assert call.say("How many of them are there now?").answer == "4 messages."


def test_what_never_comes_is_told() -> None:
    class Mute(ra.Bot):
        async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str:
            return ""

    with Call(Mute) as call, pytest.raises(RtviActorsError, match="last messages: "):
        call.say("Say something, please.", until="speaking")
