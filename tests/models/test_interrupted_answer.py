"""What the real model makes of a conversation in which it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rtvi_actors.config import Config
from rtvi_actors.llm.context import CUT_OFF, Context
from rtvi_actors.llm.engine import LlmRequest
from rtvi_actors.llm.openvino import OpenVinoLlm

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def llm() -> Iterator[OpenVinoLlm]:
    backend = OpenVinoLlm(Config())
    backend.load()
    yield backend
    backend.close()


@pytest.mark.parametrize(
    ("question", "answer", "heard", "then", "expected"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", "The capital of", "Sorry, I meant Italy.", "Rome"),
        (
            "Tell me about Japan.",
            "Japan is an island country in East Asia. It",
            "Japan is an island",
            "What is its capital?",
            "Tokyo",
        ),
        ("Hello!", "Hello! How can I help you today?", "Hello! How can", "What is the largest ocean?", "Pacific"),
    ],
)
async def test_it_answers_what_came_then_and_does_not_take_up_the_mark(
    llm: OpenVinoLlm, question: str, answer: str, heard: str, then: str, expected: str
) -> None:
    context = Context("Answer in one or two short sentences.")
    context.append_user(1, question)
    context.append_heard(1, [answer], 0, len(heard), interrupted=True)
    messages = context.messages(2, then)
    assert messages[-2].content == heard + CUT_OFF
    said = "".join([piece.text async for piece in llm.stream("s", LlmRequest(messages, max_tokens=32))])
    assert expected in said
    assert CUT_OFF not in said
