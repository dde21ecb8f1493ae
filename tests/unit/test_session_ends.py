"""How sessions end, with all stages and a bot, on a clock that moves when told."""

from __future__ import annotations

from typing import Any

import pytest

import rtvi_actors as ra
from rtvi_actors.config import Config
from rtvi_actors.testing.inline import Call

pytestmark = pytest.mark.unit

GOODBYE = "It was nice to talk to you. I wish you a good evening, and a safe way home."


class Host(ra.Bot):
    async def on_start(self, session: ra.Session) -> None:
        if "user" in session.body:
            await session.say(f"Good evening, {session.body['user']}.")

    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str | None:
        if "bye" not in turn.text:
            return None
        session.end("We close now.")
        return GOODBYE


class Announcer(ra.Bot):
    """Says two things and hangs up, without waiting for anything."""

    async def on_start(self, session: ra.Session) -> None:
        await session.say("This line is closed.")
        session.end()


def config(**session: Any) -> Config:
    return Config().replace(session=session)


def heard(call: Call) -> str:
    return " ".join(data["text"] for kind, data in call.messages if kind == "bot-tts-text")


def last(call: Call) -> list[tuple[str, str]]:
    """What the client was told of the end: type and reason or text."""
    ends = [(kind, data) for kind, data in call.messages if kind in ("server-message", "error")]
    return [(kind, data["reason"] if kind == "server-message" else data["error"]) for kind, data in ends]


def test_the_bot_reads_what_its_client_gave() -> None:
    with Call(Host, body={"user": "Ada"}) as call:
        assert call.listen() == "Good evening, Ada."


@pytest.mark.parametrize("way", ["say", "type"])
def test_the_bot_says_goodbye_to_the_end_and_hangs_up(way: str) -> None:
    with Call(Host) as call:
        getattr(call, way)("Thanks, bye.", until="said")
        call.advance(15_000)
        assert heard(call) == GOODBYE
        assert call.closed == "We close now. (1000)"
        assert last(call) == [("server-message", "bot-ended"), ("error", "We close now.")]


def test_who_interrupts_a_goodbye_is_not_heard_any_more() -> None:
    with Call(Host) as call:
        call.say("Thanks, bye.", until="speaking")
        call.say("Wait, one more thing.", until="said")
        call.advance(15_000)
        assert heard(call) == GOODBYE
        assert call.types().count("user-started-speaking") == 1
        assert call.closed == "We close now. (1000)"


def test_what_is_said_first_is_heard_before_the_end() -> None:
    with Call(Announcer) as call:
        call.advance(10_000)
        assert heard(call) == "This line is closed."
        assert call.closed == "The bot has ended the session. (1000)"


def test_disconnect_bot_behind_a_question_waits_for_the_answer() -> None:
    with Call(answers=["The answer is long, but it is said to its end."]) as call:
        call.type("A last question.", until="said")
        call.send("disconnect-bot")
        call.advance(10_000)
        assert heard(call) == "The answer is long, but it is said to its end."
        assert call.closed == "disconnect-bot (1000)"
        assert last(call) == [("server-message", "disconnect-bot")]


def test_disconnect_bot_cuts_off_an_answer_without_end() -> None:
    with Call(config=config(finish_ms=2_000), answers=["word " * 60]) as call:
        call.say("Tell me a story.", until="speaking")
        call.send("disconnect-bot")
        call.advance(2_500)
        assert call.closed == "disconnect-bot (1000)"
        assert 0 < len(heard(call)) < 200


def test_a_silent_user_is_asked_twice_then_left() -> None:
    silence = config(idle_prompt="Are you still there?", idle_prompt_after_ms=20_000, idle_prompts=2, idle_end_after_ms=60_000)
    with Call(config=silence, answers=["Good."]) as call:
        call.advance(15_000)
        call.say("I am thinking.")
        call.advance(50_000)
        assert heard(call) == "Good. Are you still there? Are you still there?"
        assert call.closed is None
        call.say("Yes, yes.")
        assert "Are you still there?" in call.context[2].content, "the model knows what it asked"
        call.advance(80_000)
        assert call.closed == "Nobody said anything for 1 min. (1000)"
        assert last(call) == [("server-message", "idle"), ("error", "Nobody said anything for 1 min.")]
        assert heard(call).count("Are you still there?") == 4


def test_the_default_ends_after_five_minutes_of_silence() -> None:
    with Call() as call:
        call.advance(299_000)
        assert call.closed is None
        call.advance(2_000)
        assert call.closed == "Nobody said anything for 5 min. (1000)"
        assert heard(call) == ""


def test_the_longest_session_ends_in_spite_of_the_talk() -> None:
    with Call(
        config=config(max_session_ms=60_000, warning_ms=20_000), answers=["I see, and I have a lot to say about it."]
    ) as call:
        while call.closed is None and call.now_ms < 10**9:
            call.type("Go on.", until="said")
            call.advance(2_000)
            if len(call.messages) > 5_000:
                break
        ends = [data for kind, data in call.messages if kind == "server-message"]
        assert [data["type"] for data in ends] == ["session-ending", "session-ended"]
        assert ends[0]["ends_in_ms"] == 20_000
        assert call.closed == "A session lasts 1 min at most. (1000)"
