from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.llm.engine import ChatMessage
from rtvi_actors.llm.fitting import Fitting, estimated_cost

pytestmark = pytest.mark.unit

SYSTEM = ChatMessage("system", "Be brief.")


def tokens(messages: list[ChatMessage]) -> int:
    return sum(estimated_cost(message.role, message.content) for message in messages)


def talk(*texts: str) -> list[ChatMessage]:
    return [SYSTEM, *(ChatMessage("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(texts))]


def test_what_fits_stays() -> None:
    messages = talk("Hello.", "Hi.", "How are you?")
    assert Fitting(100, estimated_cost).fit(messages) == messages


def test_the_oldest_are_left_out_in_blocks() -> None:
    messages = talk(*(f"Message number {n}." for n in range(41)))
    kept = [Fitting(300, estimated_cost).fit(messages[: 2 * n]) for n in range(10, 21)]
    for some in kept:
        assert some[0] == SYSTEM
        assert tokens(some) <= 300
    beginnings = {some[1].content for some in kept}
    assert beginnings <= {f"Message number {n}." for n in (0, 8, 16, 24)}, "between, the prompt begins the same"


@pytest.mark.parametrize("text", ["word " * 2_000, "\U0001f642" * 10_000, "\u4f60\u597d\u4e16\u754c" * 2_500])
def test_of_a_text_that_is_too_long_the_middle_goes(text: str) -> None:
    [system, last] = Fitting(768, estimated_cost).fit(talk(text))
    assert system == SYSTEM
    assert 0.75 * 768 < tokens([system, last]) <= 768
    assert last.content[:40] == text[:40]
    assert last.content[-40:].strip() == text[-40:].strip()


def test_a_character_may_cost_more_than_a_token() -> None:
    [_, last] = Fitting(200, lambda role, content: 5 * len(content)).fit(
        [ChatMessage("system", ""), ChatMessage("user", "x" * 900)]
    )
    assert 25 < len(last.content) <= 40


@given(
    st.lists(st.text(max_size=300), min_size=1, max_size=30),
    st.integers(64, 1_000),
    st.sampled_from([estimated_cost, lambda role, content: len(content) + 5, lambda role, content: 4 * len(content) + 5]),
)
def test_it_always_ends_with_instructions_and_a_last_message(texts: list[str], context_tokens: int, cost: object) -> None:
    messages = talk(*texts)
    fitted = Fitting(context_tokens, cost).fit(messages)  # type: ignore[arg-type]
    assert fitted[0] == SYSTEM
    assert fitted[-1].role == messages[-1].role
    assert len(fitted[-1].content) <= len(messages[-1].content)
    assert fitted[1:-1] == messages[len(messages) - len(fitted) + 1 : -1]
