"""The figures of the benchmarks of speech model and voice, and of the noisy neighbour: what they count, from made-up runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.config import Config

pytestmark = pytest.mark.unit

FOLDER = Path(__file__).parents[3] / "benchmarks"
MS = 1_000_000


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def clause(tts: Any, *pieces: tuple[int, float]) -> Any:
    """Asked for at 0; pieces as (ms of arrival, ms of audio)."""
    return tts.Spoken(0, [(at_ms * MS, audio_ms) for at_ms, audio_ms in pieces])


def test_a_piece_is_late_when_a_player_waited_for_it() -> None:
    tts = importlib.import_module("tts_batch")
    assert clause(tts, (100, 200.0), (300, 400.0), (650, 100.0)).late_ms() == 0
    # It waits 50 ms for the second, and goes on from there.
    assert clause(tts, (100, 200.0), (350, 100.0), (440, 100.0)).late_ms() == 50


def test_first_pieces_before_second_ones() -> None:
    tts = importlib.import_module("tts_batch")
    one, other = clause(tts, (100, 200.0), (290, 200.0)), clause(tts, (200, 200.0), (300, 200.0))
    late = clause(tts, (295, 200.0))
    assert tts.Round([one, other]).in_turns
    assert not tts.Round([one, late]).in_turns
    assert tts.Round([late]).in_turns
    row = tts.figures(2, [tts.Round([one, other]), tts.Round([one, late])], [tts.Round([one, other], clause(tts, (80, 1.0)))])
    assert row["in_turns"] == "1/2"
    assert row["stay_ahead"] == 2
    assert row["audio_s_per_s"] == round(1.4 / (0.3 + 0.295), 2)
    assert row["newcomer_p50_ms"] == 80


def test_a_batch_s_gain_is_the_median_of_its_cycles() -> None:
    stt = importlib.import_module("stt_batch")
    alone = stt.Finals(1, wait_ms=[200.0], per_s=[5.0, 4.0, 5.0])
    four = stt.Finals(4, wait_ms=[400.0, 500.0], per_s=[7.5, 8.0, 20.0], same=2)
    row = four.figures(alone)
    assert (row["times_alone"], row["per_s"], row["same_text"]) == (2.0, 8.0, 2)
    assert alone.figures(alone)["times_alone"] == 1


def test_the_device_is_the_engine_s() -> None:
    models = importlib.import_module("models")
    config = models.configured("stt", models.Choice("cuda", threads=3, max_batch=16))
    assert (config.stt.num_gpus, config.stt.threads, config.stt.max_batch) == (1.0, 3, 16)
    assert config.stt.model == Config().stt.model
    assert models.configured("tts", models.Choice()) == Config()


def test_intervals_lie_inside_an_answer() -> None:
    noisy = importlib.import_module("noisy_neighbour")
    control, met = noisy.Met(), noisy.Met()
    control.intervals_ms = [40.0] * 100
    met.intervals_ms = noisy.intervals_ms([(b"", 0), (b"", 40 * MS), (b"", 160 * MS)])
    row = met.figures("own", "floods", control)
    assert met.intervals_ms == [40.0, 120.0]
    assert (row["p99_ms"], row["p99_ratio"]) == (120.0, 3.0)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("the bot Neighbour stood still for 2001 ms, using 0 ms of CPU, in benchmarks/neighbour_bot.py:31 on_turn < x", True),
        ("the bot Neighbour stands still for 1100 ms by now, in benchmarks/neighbour_bot.py:31 on_turn", True),
        ("the event loop of app/llm/0 stood still for 120 ms, using 110 ms of CPU, in code that is not Python's", False),
    ],
)
def test_the_log_names_the_culprit(line: str, found: bool) -> None:
    assert bool(importlib.import_module("noisy_neighbour").CULPRIT.search(line)) is found
