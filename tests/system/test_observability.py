"""What a running app tells of itself: metrics by role, logs that name session and turn, spans, and the code that blocks a loop."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

BOT = """
import logging
import time

import rtvi_actors as ra

log = logging.getLogger(__name__)


def look_it_up_the_slow_way() -> None:
    time.sleep(0.6)


class Slow(ra.Bot):
    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str | None:
        log.info("looking it up")
        if turn.text == "block":
            look_it_up_the_slow_way()
        return f"It was {turn.text}."
"""
ROLES = {"edge", "speaking", "stt", "llm", "tts", "engine/stt", "engine/llm", "engine/tts", "scheduler"}
SECRET = "swordfish"


@pytest.fixture(scope="module")
def app(start_app: Any, config_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An app with fake models and that bot, which logs JSON and traces to its log."""
    folder = tmp_path_factory.mktemp("bot")
    (folder / "slow.py").write_text(textwrap.dedent(BOT))
    path = config_file("dense.toml", app={"log_format": "json"}, observe={"tracing": "console"}, bot={"class": "slow:Slow"})
    with start_app(path, cwd=folder) as running:
        yield running


def lines(app: Any) -> list[dict[str, Any]]:
    """The app's stderr so far: JSON, every line of it."""
    return [json.loads(line) for line in app.log.read_text().splitlines()]


async def read(app: Any) -> dict[tuple[str, ...], float]:
    """/metrics as (name, label values in the order of the labels' names) -> value."""
    async with httpx.AsyncClient(timeout=20) as web:
        answer = await web.get(f"{app.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name.removeprefix("rtvi_actors_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def turn(app: Any, connected: Any, answered: Any, text: str) -> None:
    """One session with one typed turn, to its end."""
    async with connected(app.ws_url) as client:
        await answered(client, text)
        await client.wait_type("bot-stopped-speaking", 60)


async def test_metrics_of_all_roles_after_a_turn(app: Any, connected: Any, answered: Any, eventually: Any) -> None:
    before = await read(app)
    await turn(app, connected, answered, SECRET)

    async def counted() -> Any:
        values = await read(app)
        # The scheduler asks every 2 s.
        done = values.get(("engine_requests_total", "done", "engine/tts"), 0) > before.get(
            ("engine_requests_total", "done", "engine/tts"), 0
        )
        roles = {labels[0] for name, *labels in values if name == "processes"}
        return values if done and values["sessions",] == 0 and roles == ROLES else None

    values = await eventually(counted, "the turn is counted")

    def grown(*key: str) -> float:
        return values[key] - before.get(key, 0.0)

    assert grown("turns_total", "text") == 1
    assert grown("voice_to_voice_seconds_count") == 1
    assert grown("segment_seconds_count", "tts") == 1
    assert grown("sessions_admitted_total") == 1
    assert grown("sessions_ended_total", "client-gone") == 1
    for role in ROLES:
        assert values["processes", role] >= 1
        assert values["process_resident_memory_bytes", role] > 1e7
        assert values["process_cpu_seconds_total", role] > 0
        assert values["loop_lag_seconds", role] >= 0
    assert values["links", "edge"] == 4
    assert values["scheduler_up",] == 1
    assert not any(len(label) == 16 for _, *labels in values for label in labels if label.isalnum()), "a session's name is a label"


async def test_logs_are_json_and_name_session_and_turn(app: Any, connected: Any, answered: Any, eventually: Any) -> None:
    await turn(app, connected, answered, SECRET)

    def of_the_bot() -> list[dict[str, Any]]:
        return [line for line in lines(app) if line.get("event") == "looking it up"]

    line = (await eventually(of_the_bot))[-1]
    assert len(line["session"]) == 16
    assert line["turn"] == 1
    assert line["logger"] == "slow"
    assert "/llm/" in line["actor"]
    assert any(line.get("event", "").startswith("serving at http") for line in lines(app))


async def test_a_bot_that_blocks_is_named_by_its_stack(app: Any, connected: Any, answered: Any, eventually: Any) -> None:
    await turn(app, connected, answered, "block")

    def culprit() -> list[dict[str, Any]]:
        return [line for line in lines(app) if "the bot Slow stood still for" in line.get("event", "")]

    line = (await eventually(culprit))[0]
    assert "look_it_up_the_slow_way < " in line["event"]
    assert "slow.py:" in line["event"]
    assert line["level"] == "warning"
    assert len(line["session"]) == 16


async def test_spans_of_session_turn_and_segments_without_the_text(
    app: Any, connected: Any, answered: Any, eventually: Any
) -> None:
    await turn(app, connected, answered, SECRET)

    def traced() -> dict[str, dict[str, Any]] | None:
        spans = [line for line in lines(app) if "parent_id" in line]
        turns = {span["name"]: span for span in spans if span["name"] == "turn"}
        return {span["name"]: span for span in spans} if turns and any(span["name"] == "session" for span in spans) else None

    # They are exported every 5 s.
    spans = await eventually(traced)
    await asyncio.sleep(0)
    assert {"session", "turn", "endpointing", "stt", "llm", "clause", "tts", "playout"} <= set(spans)
    assert spans["turn"]["attributes"]["rtvi.source"] == "text"
    assert spans["session"]["attributes"]["rtvi.bot"] == "slow:Slow"
    # What the bot says itself it may log; nothing of ours has it.
    assert SECRET not in app.log.read_text()


def test_nothing_but_the_address_is_on_stdout(app: Any, tmp_path: Path) -> None:
    assert app.status()["figures"]["edge"]["processes"] == 1
    assert app.url.startswith("http://")
