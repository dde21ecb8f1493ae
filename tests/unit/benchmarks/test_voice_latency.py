"""The figures of the latency benchmark, from turns that are made up."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from rtvi_actors.testing.client import Turn
from rtvi_actors.testing.recordings import Recording

pytestmark = pytest.mark.unit

CLIP = Recording("clip", "he was not an ill disposed young man", b"")


@pytest.fixture
def record(program: Callable[[str], ModuleType]) -> ModuleType:
    return program("record")


@pytest.fixture
def latency(program: Callable[[str], ModuleType], record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    program("cutoffs")
    module = program("voice_latency")
    monkeypatch.setattr(module, "_word_error_rate", lambda turns: 0.1 if turns else None)
    return module


def turn(voice_ms: float | None, **fields: Any) -> tuple[Recording, Turn]:
    given: dict[str, Any] = {"transcripts": [CLIP.text], "segments_ms": {"stt": 100.0, "llm": 50.0}, "own_share_ms": 5.0} | fields
    return CLIP, Turn(voice_to_voice_ms=voice_ms, **given)


# ---------------------------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([7.0], 0.95, 7.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.51, 3.0),
        ([float(value) for value in range(1, 101)], 0.95, 95.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentile_is_the_nearest_rank(record: ModuleType, values: list[float], share: float, expected: float) -> None:
    assert record.percentile(values, share) == expected


def test_percentile_of_nothing_is_no_number(record: ModuleType) -> None:
    assert math.isnan(record.percentile([], 0.5))


def test_each_run_appends_one_json_line(record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "commit", lambda: "abc1234+")
    record.append("voice_latency", {"speech": "recorded", "p50": None})
    path = record.append("voice_latency", {"speech": "synthesized"})
    first, second = map(json.loads, path.read_text().splitlines())
    assert path == tmp_path / "results" / "voice_latency.jsonl"
    assert (first["benchmark"], first["commit"], first["p50"]) == ("voice_latency", "abc1234+", None)
    assert first["machine"].endswith("cores")
    assert time.strptime(first["at"], "%Y-%m-%dT%H:%M:%SZ")
    assert second["speech"] == "synthesized"


def test_a_commit_with_changes_is_marked(record: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert record.commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    clean = record.commit()
    assert len(clean) >= 7
    assert not clean.endswith("+")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    results = tmp_path / "benchmarks" / "results" / "x.jsonl"
    results.write_text("")
    subprocess.run([*git, "add", str(results)], check=True)
    assert record.commit() == clean, "what a benchmark appends is no change of what it measured"
    (tmp_path / "file").write_text("2")
    assert record.commit() == clean + "+"


def started(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("code", ["print('no')", "pass"])
def test_a_server_that_ends_is_not_waited_for(record: ModuleType, code: str) -> None:
    with started(code) as process, pytest.raises(RuntimeError, match="did not become ready"):
        record._ready_url(process)


def test_a_server_that_hangs_is_not_waited_for(record: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "READY_DEADLINE_S", 0.05)
    with started("import time; time.sleep(60)") as process, pytest.raises(RuntimeError, match="did not become ready"):
        record._ready_url(process)


def test_a_server_tells_its_url(record: ModuleType) -> None:
    code = "print('starting'); print('ready http://127.0.0.1:7')"
    with started(code) as process:
        assert record._ready_url(process) == "http://127.0.0.1:7"


# --------------------------------------------------------------------------------------------------------- voice_latency


def test_figures_of_a_run(latency: ModuleType) -> None:
    turns = [turn(700.0), turn(500.0, own_share_ms=None), turn(900.0, gaps_ms=[50.0, 61.26]), turn(600.0, transcripts=["a", "b"])]
    figures = latency.Outcome("librivox", turns, client_late_ms=3.14).figures()
    assert figures == {
        "set": "librivox",
        "turns": 4,
        "unanswered": 0,
        "cut_in_two": 1,
        "voice_to_voice_ms": {"p50": 600.0, "p95": 900.0, "max": 900.0},
        "own_share_ms": {"p50": 5.0, "p95": 5.0, "max": 5.0},
        "segments_ms": {"stt": {"p50": 100.0, "p95": 100.0, "max": 100.0}, "llm": {"p50": 50.0, "p95": 50.0, "max": 50.0}},
        "gaps_over_40_ms": 2,
        "longest_gap_ms": 61.3,
        "client_late_ms": 3.1,
        "word_error_rate": 0.1,
    }


def test_a_turn_without_an_account_does_not_pull_the_segments_down(latency: ModuleType) -> None:
    figures = latency.Outcome("x", [turn(1.0, segments_ms={}), turn(2.0)]).figures()
    assert figures["segments_ms"]["stt"]["p50"] == 100.0


def test_an_answer_without_sound_is_unanswered(latency: ModuleType) -> None:
    figures = latency.Outcome("x", [turn(None), turn(2.0)], unanswered=3).figures()
    assert (figures["turns"], figures["unanswered"]) == (5, 4)
    assert figures["voice_to_voice_ms"]["max"] == 2.0


def test_no_turn_at_all_is_still_a_line_of_strict_json(latency: ModuleType) -> None:
    figures = latency.Outcome("x", unanswered=2).figures()
    assert (figures["turns"], figures["unanswered"], figures["segments_ms"]) == (2, 2, {})
    assert figures["voice_to_voice_ms"] == {"p50": None, "p95": None, "max": None}
    json.dumps(figures, allow_nan=False)


def test_the_table_shows_all_sets(latency: ModuleType) -> None:
    outcomes = [latency.Outcome("librivox", [turn(700.0)]).figures(), latency.Outcome("cards", unanswered=1).figures()]
    console = Console(width=120, file=io.StringIO())
    console.print(latency.table(outcomes, {"cases": 64, "cut_off": 3, "repaired": 2}))
    assert isinstance(console.file, io.StringIO)
    cells = [[cell.strip() for cell in line.split("│")] for line in console.file.getvalue().splitlines()]
    rows = {row[1]: row[2:4] for row in cells if len(row) == 5}
    assert rows["turns"] == ["1", "1"]
    assert rows["unanswered"] == ["0", "1"]
    assert rows["voice to voice p50, ms"] == ["700", "-"]
    assert rows["stt p50 / p95, ms"] == ["100 / 100", "-"]
    assert rows["cut off in pauses (endpointing.py)"][0] == "3 of 64 (4.7 %), 2 repaired"


async def test_turns_go_through_the_recordings_and_a_failed_one_is_counted(
    latency: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [Recording(name, "text", name.encode()) for name in ("one", "two")]

    class FakeClient:
        closed = False
        late_ms = 7.0

        def __init__(self, url: str) -> None:
            assert url == "ws://127.0.0.1:7860/ws"
            self.said = 0

        async def __aenter__(self) -> FakeClient:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        def say(self, pcm: bytes) -> bytes:
            self.said += 1
            return pcm

        async def turn(self, utterance: bytes, deadline_s: float) -> Turn:
            if self.said == 2:
                raise latency.RtviActorsError("nothing within 40 s")
            self.closed = self.said == 4
            if self.closed:
                raise latency.RtviActorsError("the session ended")
            return Turn(answer=utterance.decode())

    monkeypatch.setattr(latency, "PAUSE_S", 0)
    monkeypatch.setattr(latency, "RtviClient", FakeClient)
    outcome = await latency.converse("http://127.0.0.1:7860", "x", clips, 9)
    assert [(clip.name, answer.answer) for clip, answer in outcome.turns] == [("one", "one"), ("one", "one")]
    assert (outcome.unanswered, outcome.client_late_ms) == (2, 7.0)
