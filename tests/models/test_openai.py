"""The endpoint's backend against a real endpoint: a server on our own CTranslate2 backend, over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.openai import OpenAiLlm
from rtvi_actors.models.prepare import missing

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(bool(missing(Config())), reason="run `rtvi-actors models prepare`"),
]

SYSTEM = ChatMessage("system", "Answer in one or two short sentences.")
FRANCE = "What is the capital of France?"


@pytest.fixture
async def backend(chat_endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAiLlm]:
    monkeypatch.setenv("TEST_KEY", chat_endpoint.KEY)
    model = OpenAiLlm(
        Config().replace(
            llm={
                "backend": "openai",
                "base_url": chat_endpoint.url,
                "model": "smollm2",
                "api_key_env": "TEST_KEY",
                "timeout_ms": 60_000,
            }
        )
    )
    model.load()
    model.warm_up()
    yield model
    await asyncio.to_thread(model.close)


def ask(*texts: str, max_tokens: int = 40) -> LlmRequest:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    return LlmRequest([SYSTEM, *(ChatMessage(roles[at % 2], text) for at, text in enumerate(texts))], max_tokens)


async def pieces_of(backend: OpenAiLlm, request: LlmRequest) -> list[LlmPiece]:
    return [piece async for piece in backend.stream("s", request)]


def text_of(pieces: list[LlmPiece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_it_answers_in_pieces(backend: OpenAiLlm) -> None:
    pieces = await pieces_of(backend, ask(FRANCE))
    assert "Paris" in text_of(pieces)
    assert len(pieces) > 4
    assert [piece.finish_reason for piece in pieces] == [""] * (len(pieces) - 1) + ["stop"]
    assert pieces[-1].prompt_tokens > 20
    assert pieces[-1].completion_tokens > 4


async def test_it_stops_at_max_tokens(backend: OpenAiLlm) -> None:
    pieces = await pieces_of(backend, ask("Count from one to one hundred.", max_tokens=5))
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].completion_tokens == 5


async def test_a_second_turn_knows_the_first(backend: OpenAiLlm) -> None:
    first = text_of(await pieces_of(backend, ask(FRANCE)))
    assert "Rome" in text_of(await pieces_of(backend, ask(FRANCE, first, "And of Italy?")))


async def test_sessions_at_once(backend: OpenAiLlm) -> None:
    answers = await asyncio.gather(*(pieces_of(backend, ask(FRANCE, max_tokens=16)) for _ in range(5)))
    assert all("Paris" in text_of(answer) for answer in answers)


async def test_closing_the_iterator_stops_the_model(backend: OpenAiLlm, chat_endpoint: Any, until: Any) -> None:
    before = chat_endpoint.cancelled
    async with aclosing(backend.stream("s", ask("Tell me a very long story about a fox.", max_tokens=2_000))) as pieces:
        await anext(pieces)
        assert chat_endpoint.running == 1
    await until(lambda: chat_endpoint.running == 0)
    assert chat_endpoint.cancelled == before + 1


@pytest.mark.parametrize(
    "text", ["word " * 2_000, "\U0001f642" * 10_000, "\u4f60\u597d\u4e16\u754c" * 2_500, "\x00\x1b \u202e" * 2_000]
)
async def test_a_text_of_ten_thousand_characters(backend: OpenAiLlm, chat_endpoint: Any, text: str) -> None:
    pieces = await pieces_of(backend, ask(text, max_tokens=2))
    assert pieces[-1].finish_reason
    sent = chat_endpoint.bodies[-1]["messages"]
    assert sent[0]["content"] == SYSTEM.content
    assert 0 < len(sent[-1]["content"].encode()) <= 3 * Config().llm.context_tokens


async def test_a_wrong_key_and_a_wrong_model(backend: OpenAiLlm, chat_endpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config().replace(llm={"backend": "openai", "base_url": chat_endpoint.url, "model": "gpt", "api_key_env": "TEST_KEY"})
    cases = {"refuses the key": "sk-wrong", "wants a key": "", "knows no model 'gpt'": chat_endpoint.KEY}
    for text, key in cases.items():
        monkeypatch.setenv("TEST_KEY", key)
        other = OpenAiLlm(config)
        other.load()
        with pytest.raises(EngineError, match=text):
            await pieces_of(other, ask(FRANCE))
        await asyncio.to_thread(other.close)
