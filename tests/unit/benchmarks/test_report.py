"""The report: tables out of the last JSON lines, and the README's block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.unit

STAMP = {"commit": "abc1234", "machine": "a machine", "at": "2026-11-22T10:00:00Z"}


@pytest.fixture
def report(program: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = program("report")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def write(report: ModuleType, benchmark: str, *runs: dict[str, Any]) -> None:
    lines = [json.dumps({**STAMP, **run}) for run in runs]
    (report.RESULTS / f"{benchmark}.jsonl").write_text("\n".join(lines) + "\n")


def test_without_runs_it_says_so(report: ModuleType) -> None:
    assert report.report() == "No benchmark has been run yet."


def test_the_last_run_counts(report: ModuleType) -> None:
    run = {"interruptions": 30, "failed": 0, "p50_ms": 300.0, "p95_ms": 400.0}
    write(report, "barge_in", run, run | {"p50_ms": 241.3})
    write(report, "frame_hop", {"rows": [{"way": "link", "sessions": 8, "frames": 9, "p50_ms": 0.2, "p99_ms": 1.5, "max_ms": 2}]})
    text = report.report()
    assert "| barge-in, user's first sound to the bot's last (30 times) | 241 | p95 400 |" in text
    assert "| a frame from process to process, link, 8 sessions | 0.2 | p99 1.5 |" in text
    assert text.startswith("Measured at commit abc1234, 2026-11-22, a machine.")


def test_what_was_not_measured_is_a_dash(report: ModuleType) -> None:
    spread = {"p50": None, "p95": None, "max": None}
    figures = {
        "set": "cards",
        "turns": 2,
        "unanswered": 2,
        "cut_in_two": 0,
        "voice_to_voice_ms": spread,
        "own_share_ms": spread,
        "segments_ms": {},
        "gaps_over_40_ms": 3,
        "longest_gap_ms": 51.2,
        "word_error_rate": None,
    }
    write(report, "voice_latency", {"sets": [figures], "uss_mib": {"EdgeActor": 64.1}})
    text = report.report()
    assert "| turns answered / asked | 0 / 2 |" in text
    assert "| **voice to voice p50 / p95 / max, ms** | **- / - / -** |" in text
    assert "| gaps over 40 ms in the bot's audio | 3 (longest 51 ms) |" in text
    assert "EdgeActor 64.1" in text


def test_cut_offs_by_length_of_the_pause(report: ModuleType) -> None:
    row = {"cases": 18, "cut_off": 2, "repaired": 2, "wait_p50_ms": 240.4, "wait_p95_ms": None}
    write(report, "endpointing", {"rows": [{"pause_ms": 0, **row}, {"pause_ms": 400, **row}], "all": row})
    text = report.report()
    assert "| none | 18 | 2 | 2 | 240 / - |" in text
    assert "| 400 ms | 18 | 2 | 2 | 240 / - |" in text
    assert "| all | 18 | 2 | 2 | 240 / - |" in text


LOADS = [
    {"sessions": 1, "lost": 0, "p95_ms": 900},
    {"sessions": 8, "lost": 0, "p95_ms": 1_700},
    {"sessions": 12, "lost": 3, "p95_ms": None},
]


def test_capacity_with_its_knee_and_a_plot(report: ModuleType) -> None:
    rows = [{"voice": "coqui", **row} for row in LOADS]
    write(report, "session_capacity", {"groups": "shared", "limit_ms": 2_000.0, "knees": {"coqui": 8}, "rows": rows})
    text = report.report()
    assert "| load: voice | sessions | lost | p95 ms |" in text
    assert "| coqui | 12 | 3 | - |" in text
    assert "**8 sessions** with coqui (shared groups). Cut off in pauses, at the same commit: not measured." in text
    assert "](benchmarks/results/capacity.svg)" in text
    assert report.curves(report.runs_found()) == {"coqui": [(1, 900), (8, 1_700)]}


def test_capacity_of_several_runs_says_what_its_figures_are(report: ModuleType) -> None:
    run = {"groups": "shared", "runs": 3, "limit_ms": 2_000.0, "knees": {"coqui": 8}, "rows": [{"voice": "coqui", **LOADS[0]}]}
    write(report, "session_capacity", run | {"cut_offs": {"cases": 64, "cut_off": 3, "repaired": 2}})
    text = report.report()
    assert "(shared groups; 3 runs: medians of the times, sums of the counts)" in text
    assert "at the same commit: 3 of 64 (4.7 %), 2 repaired." in text


def test_peers_and_ratios(report: ModuleType) -> None:
    speed = [{"sessions": 1, "p50": 4.1, "p95": 5.0}, {"sessions": 8, "p50": None, "p95": None}]
    capacity = [{"p95_ms": 2_500, "theirs": 2, "ours": 8, "at_least": True, "ratio": 4.0}]
    servers = [{"name": "ours", "rows": LOADS, "failed": ""}, {"name": "shelf", "rows": [], "failed": "no model"}]
    write(report, "peers", {"servers": servers, "ratios": {"shelf": {"speed": speed, "capacity": capacity}}})
    text = report.report()
    assert "| ours | 8 | 0 | 1700 |" in text
    assert "As fast (p50 / p95) as Pipecat off the shelf: 4.1 / 5.0 times at 1 sessions." in text
    assert "at least 4 times the sessions at its p95 of 2500 ms" in text
    assert "Pipecat off the shelf failed: no model." in text
    assert list(report.curves(report.runs_found())) == ["ours"]


def test_batches_and_neighbours_show_what_was_recorded(report: ModuleType) -> None:
    stt = {"model": "tiny", "device": "cpu", "rows": [{"sessions": 4, "times_alone": 1.5}], "beside_interims": [{"talking": 4}]}
    write(report, "stt_batch", stt)
    write(report, "tts_batch", {"voices": [{"backend": "hibari", "device": "cpu", "rows": [{"sessions": 8, "in_turns": "5/5"}]}]})
    write(report, "llm_batch", {"rows": [{"engine": "ctranslate2", "tokens_per_s": 80}, {"engine": "other", "only_here": 1}]})
    write(report, "noisy_neighbour", {"rows": [{"groups": "own", "p99_ratio": 1.02}]})
    text = report.report()
    assert "| finals at once, tiny on cpu: sessions | times alone |" in text
    assert "| 8 | 5/5 |" in text
    assert "| answers at once: engine | tokens per s | only here |" in text
    assert "| other | - | 1 |" in text
    assert "| own | 1.02 |" in text
    assert "svg" not in text


def test_the_simulated_cluster(report: ModuleType) -> None:
    counts = {"admitted": 2_395_405, "turned_away": 375, "moved_by_drains": 44_643, "lost_by_drains": 0, "failures": 15}
    spread = {"lost_by_failures": 1_321, "nodes_least": 131, "nodes_most": 1_000, "places_used": 0.66}
    took = {"admit_p50_us": 10.6, "admit_p99_us": 30.5, "placement_1000_on_1000_s": 0.056}
    write(report, "scale_sim", {"nodes": 1_000, "sessions": 100_000, "hours": 24.0, **counts, **spread, **took})
    text = report.report()
    assert "| simulated: 1,000 nodes at most, 100,000 sessions at the peak, 24 h |  |" in text
    assert "| sessions admitted / turned away | 2,395,405 / 375 |" in text
    assert "| places taken, of those that were up | 66.0 % |" in text
    assert "| to admit a client, p50 / p99, us | 10.6 / 30.5 |" in text
    assert "](benchmarks/results/scale_sim.svg)" in text


def test_the_plot_is_the_same_for_the_same_figures(report: ModuleType, tmp_path: Path) -> None:
    lines = {"ours": [(1, 900.0), (8, 1_700.0)], "theirs": [(1, 2_500.0)]}
    report.draw(lines, tmp_path / "a.svg")
    report.draw(lines, tmp_path / "b.svg")
    svg = (tmp_path / "a.svg").read_text()
    assert svg == (tmp_path / "b.svg").read_text()
    assert "theirs" in svg
    assert "sessions" in svg


def test_only_the_block_of_the_readme_is_replaced(report: ModuleType) -> None:
    readme = f"# Name\n\n{report.BEGIN}\nold\n{report.END}\nrest\n"
    new = report.replaced(readme, "new")
    assert new == f"# Name\n\n{report.BEGIN}\n\nnew\n\n{report.END}\nrest\n"
    assert report.replaced(new, "new") == new
    with pytest.raises(ValueError, match="README"):
        report.replaced("# Name\n", "new")


def test_each_voice_has_its_newest_figures_of_the_same_kind_of_run(report: ModuleType) -> None:
    def line(commit: str, groups: str, *voices: str) -> dict[str, Any]:
        rows = [{"voice": voice, "sessions": 8} for voice in voices]
        kind = {"groups": groups, "limit_ms": 2_000.0, "machine": "m"}
        return {"commit": commit, **kind, "knees": dict.fromkeys(voices, 8), "rows": rows}

    earlier = [line("c", "own", "coqui"), line("b", "shared", "coqui", "hibari"), line("a", "shared", "coqui")]
    found = report.with_other_voices(line("d", "shared", "hibari"), earlier)
    assert [(row["voice"], row["commit"]) for row in found["rows"]] == [("hibari", "d"), ("coqui", "b")]
    assert found["knees"] == {"hibari": 8, "coqui": 8}
