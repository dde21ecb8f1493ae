"""Continuous batching with real weights: company changes no answer. Needs `rtvi-actors models prepare`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.kept import KeptCaches
from rtvi_actors.llm.openvino import OpenVinoLlm, presence_penalty
from rtvi_actors.llm.transformers import TransformersLlm
from rtvi_actors.models.prepare import missing

CONFIG = Config().replace(llm={"backend": "transformers", "max_batch": 8})
OPENVINO = CONFIG.replace(llm={"backend": "openvino"})

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(bool(missing(CONFIG) + missing(OPENVINO)), reason="run `rtvi-actors models prepare`"),
]

SYSTEM = ChatMessage("system", "You are a friendly voice assistant. Answer in one or two short sentences.")
QUESTIONS = [
    "What is the capital of France?",
    "How many legs does a spider have?",
    "Tell me about the sea, and about the old ships that sailed on it, and about the lighthouses that showed them the way home.",
    "Why is the sky blue?",
]


@pytest.fixture(scope="module")
def exact() -> Iterator[TransformersLlm]:
    """In float32: in bfloat16 a sum in another order may turn a near tie between two tokens."""
    model = TransformersLlm(CONFIG)
    model.load()
    model._model.float()
    yield model
    model.close()


@pytest.fixture(autouse=True)
def nothing_kept(exact: TransformersLlm, expected: list[str]) -> None:
    exact._kept = KeptCaches(512 * 1024 * 1024, 600_000)


@pytest.fixture(scope="module")
def paged() -> Iterator[OpenVinoLlm]:
    model = OpenVinoLlm(OPENVINO)
    model.load()
    model.warm_up()
    yield model
    model.close()


def ask(*texts: str, max_tokens: int = 8) -> LlmRequest:
    roles = ("user", "assistant")
    return LlmRequest([SYSTEM, *(ChatMessage(roles[at % 2], text) for at, text in enumerate(texts))], max_tokens)


async def answer(backend: Any, request: LlmRequest, session: str = "s") -> str:
    return "".join([piece.text async for piece in backend.stream(session, request)])


@pytest.fixture(scope="module")
def expected(exact: TransformersLlm) -> list[str]:
    """What each question is answered with alone."""
    return [asyncio.run(answer(exact, ask(question), f"alone{at}")) for at, question in enumerate(QUESTIONS)]


async def test_answers_together_are_those_alone(exact: TransformersLlm, expected: list[str]) -> None:
    together = await asyncio.gather(*(answer(exact, ask(question), f"t{at}") for at, question in enumerate(QUESTIONS)))
    assert list(together) == expected


async def test_who_joins_or_is_cancelled_changes_no_other(exact: TransformersLlm, expected: list[str]) -> None:

    async def cancelled() -> LlmPiece:
        async with aclosing(exact.stream("gone", ask("Tell me a very long story.", max_tokens=500))) as pieces:
            return [await anext(pieces) for _ in range(4)][-1]

    async def late() -> str:
        async with aclosing(exact.stream("first", ask(QUESTIONS[2], max_tokens=30))) as pieces:
            for _ in range(3):
                await anext(pieces)
            return await answer(exact, ask(QUESTIONS[0]), "late")  # joins while "first" runs, which is then cancelled

    first, second, joined, fourth, _ = await asyncio.gather(
        answer(exact, ask(QUESTIONS[1]), "a"),
        answer(exact, ask(QUESTIONS[2]), "b"),
        late(),
        answer(exact, ask(QUESTIONS[3]), "c"),
        cancelled(),
    )
    assert [joined, first, second, fourth] == expected
    async with asyncio.timeout(20):
        while exact._worker is None or exact._worker.busy:
            await asyncio.sleep(0.01)


async def test_only_what_is_new_of_a_prompt_is_computed(exact: TransformersLlm) -> None:
    first = await answer(exact, ask(QUESTIONS[0]), "a")
    before = exact.prefilled_tokens
    request = ask(QUESTIONS[0], first, "And of Italy?")
    await answer(exact, request, "a")
    length = len(exact._prompt.encode(request.messages).ids)
    assert exact.prefilled_tokens - before < length / 2
    # A new session has the instructions in common with the other.
    instructions = len(exact._prompt.encode_history([SYSTEM]).ids)
    before = exact.prefilled_tokens
    await answer(exact, ask(QUESTIONS[1]), "b")
    assert exact.prefilled_tokens - before <= len(exact._prompt.encode(ask(QUESTIONS[1]).messages).ids) - instructions
    exact.forget("a")
    exact.forget("b")
    before = exact.prefilled_tokens
    await answer(exact, ask(QUESTIONS[1]), "b")
    assert exact.prefilled_tokens - before == len(exact._prompt.encode(ask(QUESTIONS[1]).messages).ids)


async def test_caches_are_bounded(exact: TransformersLlm) -> None:
    exact._kept = KeptCaches(6_000_000, 600_000)  # some 130 tokens in float32
    for at in range(5):
        await answer(exact, ask(QUESTIONS[at % 4], max_tokens=3), f"s{at}")
        assert exact._kept.size_bytes <= 6_000_000
    assert 1 <= exact.kept_sessions < 5


async def test_a_request_that_fails_fails_alone(
    exact: TransformersLlm, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rtvi_actors.llm.padded import PaddedBatch

    poison = exact._prompt._tokenizer.token_to_id("\u0120zebra")
    assert poison is not None
    whole = PaddedBatch.forward

    def forward(self: PaddedBatch, tokens: Any) -> Any:
        if any(poison in row for row in tokens):
            raise RuntimeError("out of memory")
        return whole(self, tokens)

    monkeypatch.setattr(PaddedBatch, "forward", forward)
    results = await asyncio.gather(
        *(answer(exact, ask(question), f"t{at}") for at, question in enumerate(QUESTIONS)),
        answer(exact, ask("What is a zebra?"), "bad"),
        return_exceptions=True,
    )
    assert results[:-1] == expected
    assert isinstance(results[-1], EngineError)
    assert "out of memory" in str(results[-1])


async def test_a_long_prompt_is_computed_in_parts(
    exact: TransformersLlm, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtvi_actors.llm.transformers.PREFILL_TOKENS", 16)
    assert await answer(exact, ask(QUESTIONS[2]), "a") == expected[2]


# ------------------------------------------------------------------------------------------------------------ OpenVINO


async def test_openvino_answers_together_like_alone(paged: OpenVinoLlm) -> None:
    """Its weights, activations and cache have 8 bits: near ties may turn in company, so the beginning is compared."""
    expected = [await answer(paged, ask(question, max_tokens=6), f"a{at}") for at, question in enumerate(QUESTIONS)]
    together = await asyncio.gather(*(answer(paged, ask(text, max_tokens=6), f"t{at}") for at, text in enumerate(QUESTIONS)))
    same = sum(one.split()[:3] == other.split()[:3] for one, other in zip(expected, together, strict=True))
    assert same >= len(QUESTIONS) - 1


@pytest.mark.parametrize(
    ("question", "known"),
    [
        ("What is the capital of Italy?", ("Rome",)),
        ("How many legs does a spider have?", ("eight", "8")),
        ("What is the largest ocean?", ("Pacific",)),
    ],
)
async def test_openvino_knows_what_the_weights_know(paged: OpenVinoLlm, question: str, known: tuple[str, ...]) -> None:
    """Read straight from the package's file of 4 bits, which OpenVINO misreads, they knew Rome alone."""
    said = await answer(
        paged, LlmRequest([ChatMessage("system", "Answer in one or two short sentences."), ChatMessage("user", question)], 20)
    )
    assert any(word in said for word in known), said


async def test_openvino_goes_on_when_one_is_cancelled(paged: OpenVinoLlm) -> None:
    async with aclosing(paged.stream("gone", ask("Tell me a very long story.", max_tokens=500))) as pieces:
        await anext(pieces)
        other = asyncio.create_task(answer(paged, ask(QUESTIONS[0], max_tokens=20), "stays"))
        await anext(pieces)
    assert await asyncio.wait_for(other, 20)
    async with asyncio.timeout(20):
        while paged._worker is None or paged._worker.busy:
            await asyncio.sleep(0.01)
    assert not paged._running


async def test_openvino_overwrites_old_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more tokens than there are pages."""
    monkeypatch.setattr("rtvi_actors.llm.openvino.KEPT_TOKENS", 512)
    small = OpenVinoLlm(OPENVINO.replace(llm={"max_batch": 1, "context_tokens": 200, "max_tokens": 16}))
    small.load()
    for at in range(8):
        text = f"Story {at}. " + "The sea was calm and the ships lay still. " * 10
        assert await answer(small, ask(text, "Yes.", "Go on.", max_tokens=4), f"s{at}")
    small.close()


@pytest.mark.parametrize(("repetition", "presence"), [(1.0, 0.0), (1.05, 20 - 20 / 1.05), (1.2, 2.0), (2.0, 2.0)])
def test_the_penalty_that_openvino_gets(repetition: float, presence: float) -> None:
    assert presence_penalty(repetition) == pytest.approx(presence)


async def test_openvino_computes_the_next_prompt_ahead_where_old_messages_were_left_out() -> None:
    """Counted in tokens that are computed ahead: none while the conversation grows, many once it is cut."""
    model = OpenVinoLlm(OPENVINO.replace(llm={"context_tokens": 256}))
    model.load()
    told: list[int] = []
    add = model._add

    def noted(prompt: list[int], max_tokens: int, temperature: float) -> Any:
        if max_tokens == 1:
            told.append(len(prompt))
        return add(prompt, max_tokens, temperature)

    model._add = noted  # type: ignore[method-assign]
    talk = ["Hello there, my friend."]
    for at in range(9):
        said = await answer(model, ask(*talk, max_tokens=12), "s")
        talk += [said, f"And what about number {at}, which I have been thinking of for a long time?"]
        async with asyncio.timeout(20):
            while model._ahead:
                await asyncio.sleep(0.01)
        if at == 1:
            assert not told
    model.close()
    assert told
    assert max(told) <= 256
