"""The pure parts of the benchmark of language models in company."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from llm_batch import SYSTEM, Timed, conversation, question, row

pytestmark = pytest.mark.unit


def test_a_row_sums_over_sessions_and_rounds() -> None:
    rounds = [[Timed(100.0, 1_000.0, 20), Timed(200.0, 800.0, 10)], [Timed(300.0, 1_000.0, 30)]]
    figures = row("x", 30, 2, rounds, alone_per_s=10.0)
    assert figures["tokens_per_s"] == 30.0  # 60 tokens in 1 + 1 s
    assert figures["ratio"] == 3.0
    assert (figures["first_p50_ms"], figures["first_p95_ms"]) == (200.0, 300.0)


def test_one_alone_is_the_measure() -> None:
    assert row("x", 30, 1, [[Timed(100.0, 500.0, 24)]], None)["ratio"] == 1.0


def test_sessions_and_rounds_have_their_own_words() -> None:
    asked = {str([*conversation(session, number, 250), question(session, number)]) for session in range(8) for number in range(6)}
    assert len(asked) == 48
    assert conversation(0, 0, 30) == [SYSTEM]
    words = sum(len(message.content.split()) for message in conversation(0, 0, 250))
    assert 150 < words < 250
