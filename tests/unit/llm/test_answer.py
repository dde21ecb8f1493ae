"""An answer that fails, and what the bot says then."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from rtvi_actors.bot import Bot, BotClass
from rtvi_actors.config import Config
from rtvi_actors.errors import EngineTimeoutError
from rtvi_actors.frames.types import (
    Clause,
    EngineEnd,
    EngineRequest,
    Error,
    LlmEnded,
    LlmText,
    Metrics,
    Played,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.llm.answer import Answer
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.llm.stage import LlmStage
from rtvi_actors.testing.fakes import FakePort

pytestmark = pytest.mark.unit

SORRY = "Sorry, I have no answer right now. Please ask again."


async def broken(*texts: str) -> AsyncGenerator[LlmPiece, None]:
    for text in texts:
        yield LlmPiece(text, compute_ns=1)
    raise EngineTimeoutError("it is down")


async def failed(*texts: str, spoken: bool = True, committed: bool = True) -> tuple[Answer, FakePort]:
    port = FakePort(roles={"tts", "edge"})
    answer = Answer(port, 1, 1, spoken=spoken, committed=committed, spoken_error=SORRY)
    await answer.run("Hello.", broken(*texts))
    return answer, port


def text_of(port: FakePort) -> str:
    return "".join(frame.text for frame in port.frames("edge", LlmText))  # type: ignore[attr-defined]


async def test_it_says_that_there_is_no_answer() -> None:
    answer, port = await failed()
    assert answer.excused
    assert answer.clauses == [SORRY]
    assert [frame.text for frame in port.frames("tts", Clause)] == [SORRY]  # type: ignore[attr-defined]
    assert port.frames("tts", LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=1, reason="error")]
    assert text_of(port) == SORRY
    kinds = [type(frame) for frame in port.frames("edge") if not isinstance(frame, Metrics)]
    assert kinds[1] is Error, "told before it is spoken"
    assert kinds[-1] is LlmEnded


async def test_what_was_begun_and_not_said_is_left_out() -> None:
    answer, port = await failed("The ca", "pital ")
    assert answer.clauses == [SORRY]
    assert text_of(port) == f"The capital {SORRY}"


async def test_when_something_was_said_it_is_silent() -> None:
    answer, port = await failed("Paris is in France. It", " lies on")
    assert answer.clauses == ["Paris is in France. "]
    assert not answer.excused
    assert text_of(port) == "Paris is in France. It lies on"


async def test_as_text_only() -> None:
    answer, port = await failed(spoken=False)
    assert port.frames("tts") == []
    assert [frame.spoken for frame in port.frames("edge", Clause)] == [False]  # type: ignore[attr-defined]
    assert answer.excused


async def test_on_trial_only_the_error_waits() -> None:
    answer, port = await failed(committed=False)
    assert port.frames("edge", Error) == []
    assert len(port.frames("edge", Clause)) == 1
    answer.commit()
    assert [frame.text for frame in port.frames("edge", Error)] == ["the language model failed: it is down"]  # type: ignore[attr-defined]


async def test_an_excuse_is_not_remembered() -> None:
    port = FakePort(roles={"speaking", "tts", "edge", "engine/llm"})
    stage = LlmStage(port, Config().replace(llm={"spoken_error": SORRY}), BotClass(Bot))

    async def turn(number: int, text: str) -> LlmRequest:
        for frame in (
            TurnStarted(turn=number, request="", source="speech", under_bot=False),
            Transcript(turn=number, attempt=1, text=text, final=True, language="en"),
            TurnEnded(turn=number, attempt=1, last_sample=0),
        ):
            stage.receive(frame)
        await port.settle()
        asked: Any = port.frames("engine/llm", EngineRequest)[-1]
        return msgspec.msgpack.decode(asked.payload, type=LlmRequest)

    await turn(1, "Where is Paris?")
    stage.receive(EngineEnd(request=1, compute_ns=0, queue_ns=0, error="down", retryable=True))
    await port.settle()
    stage.receive(Played(turn=1, clause=0, char=52, final=True))
    asked = await turn(2, "Hello?")
    assert [(message.role, message.content) for message in asked.messages[1:]] == [("user", "Where is Paris?\nHello?")]
    await port.close()
    await stage.close()


async def slow(port: FakePort, step_ms: int) -> AsyncGenerator[LlmPiece, None]:
    text = "The original sentence is a clever way of using the word more prudently for an interesting contrast."
    for word in text.split():
        await port.advance(step_ms)
        yield LlmPiece(f"{word} ", compute_ns=1)


@pytest.mark.parametrize(("step_ms", "clauses"), [(5, 2), (100, 3)])
async def test_a_slow_model_gives_its_second_clause_before_the_first_was_played(step_ms: int, clauses: int) -> None:
    port = FakePort()
    answer = Answer(port, 1, 1, spoken=True, committed=True)
    await answer.run("Hello.", slow(port, step_ms))
    assert len(answer.clauses) == clauses


async def test_before_the_commit_no_clause_is_late() -> None:
    port = FakePort()
    answer = Answer(port, 1, 1, spoken=True, committed=False)
    await answer.run("Hello.", slow(port, 100))
    assert len(answer.clauses) == 2
