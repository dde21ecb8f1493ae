"""Pipecat's own evaluation harness holds conversations with the app, with real models, over its JSON wire.

The scenarios are the YAML files beside this one. The harness lives in a virtual environment of its own, since its requirements do
not fit ours: ``make harness``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.testing import recordings
from rtvi_actors.testing.recordings import LIBRIVOX_TEXTS, RATE_HZ, Recording, write_wav

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
SCENARIOS = ("typed", "spoken", "aloud")
DEADLINE_S = 420.0
CONFIG = """\
[edge]
eval_messages = true

[llm]
max_tokens = 40

[scheduler]
sessions_per_group = 4
warm_groups = 1
"""
"""One group of stages for all scenarios, which come one after the other."""
CLIPS = {"dashwood": LIBRIVOX_TEXTS[0], "amiable": LIBRIVOX_TEXTS[4]}

Report = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def app(start_app: Callable[..., AbstractContextManager[Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not PYTHON.exists():
        pytest.skip("Pipecat's evaluation harness is not installed: run `make harness`")
    config = tmp_path_factory.mktemp("harness") / "harness.toml"
    config.write_text(CONFIG)
    with start_app(str(config)) as running:
        yield running


@pytest.fixture(scope="module")
def report(app: Any, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Name of a scenario -> its result, of one run of the harness."""
    folder = tmp_path_factory.mktemp("scenarios")
    for name in SCENARIOS:
        (folder / f"{name}.yaml").write_text((HERE / f"{name}.yaml").read_text())
    for name, pcm in clips().items():
        write_wav(folder / f"{name}.wav", pcm, RATE_HZ)
    results = folder / "report.json"
    files = [str(folder / f"{name}.yaml") for name in SCENARIOS]
    environment = {**os.environ, "TRANSCRIBE_PYTHON": sys.executable, "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [str(PYTHON), str(HERE / "run_scenarios.py"), app.ws_url, str(results), *files],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return {result["scenario_name"]: result for result in json.loads(results.read_text())}


def clips() -> dict[str, bytes]:
    """What the user says, and silence."""
    found: list[Recording] = (
        recordings.recorded("librivox") if recordings.available() else asyncio.run(recordings.synthesized(Config()))
    )
    spoken = {recording.text: recording.pcm for recording in found}
    return {"silence": bytes(3 * 2 * RATE_HZ)} | {name: spoken[text] for name, text in CLIPS.items()}


def events(result: dict[str, Any]) -> list[str]:
    return [event["type"] for event in result["events_seen"]]


@pytest.mark.parametrize(
    "scenario",
    [
        "typed/text_turn",
        "typed/memory",
        "typed/given_context",
        "spoken/silent_answer",
        "spoken/silence_is_no_turn",
        "aloud/spoken_turn",
        "aloud/barge_in",
    ],
)
def test_a_scenario_passes(report: Report, scenario: str) -> None:
    result = report[scenario]
    assert result["passed"], "\n".join([*(str(failure) for failure in result["failures"]), *result["debug_log"]])


def test_all_scenarios_were_run(report: Report) -> None:
    assert len(report) == 7
    assert {status["status"] for result in report.values() for status in result["turns"]} == {"passed"}


def test_the_bot_is_heard_to_say_its_answer(report: Report) -> None:
    """What the harness understood of the bot's sound is what the model answered, but for words that are heard wrong."""
    seen = report["aloud/spoken_turn"]["events_seen"]
    answer = next(event["text"] for event in seen if event["type"] == "llm_response")
    heard = next(event["text"] for event in seen if event["type"] == "response")
    words = {word.strip(".,!?'\"").lower() for word in answer.split()}
    assert len(words & {word.strip(".,!?'\"").lower() for word in heard.split()}) >= len(words) / 2, (answer, heard)


def test_an_interruption_is_told_in_the_order_that_clients_rely_on(report: Report) -> None:
    """The interruption closes the old answer before anything of the new turn: clients forget what they hold when they see it."""
    told = events(report["aloud/barge_in"])
    at = told.index("bot_interrupted")
    assert told[at - 1] == "user_started_speaking", told
    behind = told[at:]
    order = ["bot_stopped_speaking", "user_stopped_speaking", "user_transcription", "llm_started", "bot_started_speaking"]
    places = [behind.index(kind) for kind in order]
    assert places == sorted(places), told
    assert told.count("bot_started_speaking") == told.count("bot_stopped_speaking") == 2


def test_voice_activity_is_told_only_to_whom_it_was_asked_for(report: Report) -> None:
    told = events(report["spoken/silent_answer"])
    assert told.index("vad_user_started_speaking") < told.index("user_started_speaking")
    assert told.index("vad_user_stopped_speaking") < told.index("user_stopped_speaking")
    assert "vad_user_started_speaking" not in events(report["aloud/spoken_turn"])


def test_each_answer_begins_after_what_it_answers(report: Report) -> None:
    for name in ("spoken/silent_answer", "spoken/silence_is_no_turn", "aloud/spoken_turn"):
        told = events(report[name])
        places = [told.index(kind) for kind in ("user_started_speaking", "user_transcription", "llm_started", "llm_response")]
        assert places == sorted(places), told
        assert told.count("user_transcription") == told.count("llm_started") == 1


def test_nothing_is_left_of_the_sessions_and_of_bare_connections(report: Report, app: Any) -> None:
    """The harness opens and closes a bare TCP connection before each session, and ends sessions with a message of its own."""
    assert report
    assert app.status()["sessions"] == []
    assert "Traceback" not in app.log.read_text()
