"""The endpointing benchmark: where pauses go, what counts as cut off, and a case played with a model that is made up."""

from __future__ import annotations

import io
import json
import sys
from array import array
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rtvi_actors.config import Config
from rtvi_actors.frames.types import Cancel, Frame, Transcript, TurnEnded, TurnStarted
from rtvi_actors.speaking.vad import VadState
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.testing.recordings import Recording, audible_samples

pytestmark = pytest.mark.unit

MS = 16
"""Samples."""


@pytest.fixture
def bench(program: Callable[[str], ModuleType]) -> ModuleType:
    for name in ("record", "pauses", "virtual_talk"):
        program(name)
    return program("endpointing")


@pytest.fixture
def pauses(bench: ModuleType) -> ModuleType:
    return sys.modules["pauses"]


def words(*lengths_ms: int, loudness: float = 3_000.0, gap_ms: int = 60) -> Any:
    """Loud stretches with quiet gaps between them."""
    rng = np.random.default_rng(1)
    gap = rng.normal(0, 5, gap_ms * MS)
    return np.concatenate([part for ms in lengths_ms for part in (rng.normal(0, loudness, ms * MS), gap)])


def ended(turn: int, text: str = "Yes.") -> list[Frame]:
    return [Transcript(turn=turn, attempt=1, text=text, final=True, language="en"), TurnEnded(0, turn=turn, attempt=1)]


def outcome(bench: ModuleType, *frames: tuple[float, Frame]) -> Any:
    """Of a case whose sound ends at 2,000 ms."""
    case = sys.modules["pauses"].Case("x", 600, b"", 2_000 * MS, (800 * MS, 1_400 * MS))
    return bench.outcome_of(case, list(frames))


# ---------------------------------------------------------------------------------------------------------------- pauses


def test_a_pause_goes_to_the_quietest_place_near_a_boundary_in_the_middle_third(pauses: ModuleType) -> None:
    samples = words(300, 300, 300, 300, 300, 300)  # the gaps lie at 300-360, 660-720, 1,020-1,080, ... of 2,160 ms
    boundaries = [(at_ms + 30) * MS for at_ms in (340, 700, 990, 1_400)]
    places = pauses.quietest_places(samples, boundaries, 3)
    assert len(places) == 2, "the others are outside of the middle third"
    assert {place // (360 * MS) for place in places} == {1, 2}
    for place in places:
        assert 300 * MS <= place % (360 * MS) <= 360 * MS


def test_places_keep_apart_and_a_short_clip_has_its_middle(pauses: ModuleType) -> None:
    samples = words(100, 100, 100, 100, 100, 100, 100, 100, 100)
    near = pauses.quietest_places(samples, [(160 * n - 30) * MS for n in range(1, 9)], 3)
    assert len(near) == 1, "there are three in the middle third, 160 ms apart"
    assert len(pauses.quietest_places(words(500, 100), [530 * MS], 3)) == 1
    assert pauses.quietest_places(words(500), [], 3) == ()


def test_a_pause_is_put_in_and_the_sound_fades_at_its_sides(pauses: ModuleType) -> None:
    samples = np.full(1_000, 8_000.0)
    parted = pauses.with_pause(samples, 400, np.zeros(3_200))
    assert len(parted) == 4_200
    assert (parted[400:3_600] == 0).all()
    assert parted[399] == parted[3_600] == 0.0
    assert (np.diff(parted[272:400]) <= 0).all()
    assert (parted[:272] == 8_000).all()
    assert (parted[3_728:] == 8_000).all()


def test_cases_are_whole_and_parted_and_say_where_their_sound_ends(pauses: ModuleType) -> None:
    samples = words(400, 400)
    recording = Recording("set-1", "a b", samples.astype("<i2").tobytes())
    clip = pauses.Clip(recording, (430 * MS,))
    whole, short, long = pauses.cases([clip], [200, 600])
    assert [case.pause_ms for case in (whole, short, long)] == [0, 200, 600]
    assert whole.speech_end == (500 + 860) * MS
    assert long.speech_end == whole.speech_end + 600 * MS
    assert long.pause == ((500 + 430) * MS, (500 + 430 + 600) * MS)
    for case in (whole, short, long):
        assert abs(audible_samples(case.pcm) - case.speech_end) <= 10 * MS
        assert len(case.pcm) == 2 * (case.speech_end + 2_500 * MS)
    pause = array("h", long.pcm)[long.pause[0] + 200 : long.pause[1]]
    assert 0 < max(map(abs, pause)) < 100, "the room is heard in it"


# --------------------------------------------------------------------------------------------------------------- figures


def test_a_turn_that_ends_in_the_pause_is_a_cut_off(bench: ModuleType) -> None:
    both = outcome(bench, *((1_100.0, frame) for frame in ended(1)), *((2_200.0, frame) for frame in ended(2)))
    assert both.cut_at == [1]
    assert not both.repaired
    assert both.wait_ms == 200.0
    assert "-900 ms 'Yes.'; +200 ms" in bench.explain(both)


def test_a_turn_that_ends_with_the_last_breath_is_not(bench: ModuleType) -> None:
    one = outcome(bench, *((1_900.0, frame) for frame in ended(1)))
    assert one.cut_at == []
    assert one.wait_ms == -100.0


def test_a_turn_without_words_counts_for_nothing(bench: ModuleType) -> None:
    void = outcome(bench, *((900.0, frame) for frame in ended(1, " ")), *((2_300.0, frame) for frame in ended(2)))
    assert void.cut_at == []
    assert void.wait_ms == 300.0


def test_a_cut_off_that_is_taken_up_again_is_repaired(bench: ModuleType) -> None:
    again = TurnStarted("", "speech", under_bot=True, reopens=1, turn=2)
    before = [(1_100.0, frame) for frame in ended(1)] + [(1_300.0, again)]
    after = [(2_200.0, frame) for frame in ended(2)]
    assert not outcome(bench, *before, *after).repaired, "it was never confirmed"
    repaired = outcome(bench, *before, (1_500.0, Cancel(2, "goes on")), *after)
    assert repaired.cut_at == [1]
    assert repaired.repaired
    figures = bench.figures([repaired, outcome(bench)])
    assert figures == {"cases": 2, "cut_off": 1, "repaired": 1, "not_ended": 1, "wait_p50_ms": 200.0, "wait_p95_ms": 200.0}


def test_the_table_has_a_row_for_each_pause_and_one_for_all(bench: ModuleType) -> None:
    one, two = bench.figures([outcome(bench)]), bench.figures([outcome(bench, *((1_100.0, frame) for frame in ended(1)))])
    console = Console(width=120, file=io.StringIO())
    console.print(bench.table([{"pause_ms": 0, **one}, {"pause_ms": 600, **two}], two))
    assert isinstance(console.file, io.StringIO)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines() if "│" in line]
    assert cells == [
        ["none", "1", "0", "0", "0.0%", "-", "-"],
        ["600 ms", "1", "1", "0", "100.0%", "-", "-"],
        ["all", "1", "1", "0", "100.0%", "-", "-"],
    ]


# ---------------------------------------------------------------------------------------------------------------- played


class Loudness:
    """A Vad: whatever is loud is speech."""

    def probability(self, window: bytes, state: VadState) -> float:
        return float(max(map(abs, array("h", window))) > 1_000)


class Whisperer:
    """A backend that hears the same in everything."""

    memory_bytes = 0
    requests = 0

    def __init__(self, text: str) -> None:
        self.text = text

    def load(self) -> None: ...
    def warm_up(self) -> None: ...
    def close(self) -> None: ...

    async def stream(self, session: str, request: SttRequest) -> AsyncGenerator[SttPiece, None]:
        self.requests += 1
        yield SttPiece(text=self.text, language="en", compute_ns=50_000_000)


@pytest.fixture
def play(bench: ModuleType, pauses: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("rtvi_actors.speaking.stage.SileroVad", Loudness)
    recording = Recording("set-1", "a b", words(1_000, 1_000, gap_ms=30).astype("<i2").tobytes())

    def play(pause_ms: int, text: str, cache: Path | None = None) -> tuple[Any, Any, int]:
        [case] = [case for case in pauses.cases([pauses.Clip(recording, (1_015 * MS,))], [pause_ms]) if case.pause_ms == pause_ms]
        backend = Whisperer(text)
        model = sys.modules["virtual_talk"].Model(backend, cache)
        try:
            outcome, talk = bench.judge(case, Config(), model, bench.SpeakingStages(Config()))
        finally:
            model.close()
        return outcome, talk, backend.requests

    return play


def test_a_long_pause_behind_a_finished_sentence_cuts_the_user_off(play: Any) -> None:
    outcome, talk, _ = play(1_900, "I would like a room for the night.")
    assert len(outcome.cut_at) == 1
    assert outcome.ends_ms.keys() == outcome.texts.keys()
    assert len(outcome.ends_ms) == 2
    assert talk.backend.computed_ms[True] >= 100.0


def test_a_short_one_does_not_and_costs_the_wait(play: Any) -> None:
    outcome, _, _ = play(160, "I would like a room for the night.")
    assert outcome.cut_at == []
    assert len(outcome.ends_ms) == 1
    assert 0 < outcome.wait_ms < 1_000
    assert outcome.wait_ms == play(160, "I would like a room for the night.")[0].wait_ms, "virtual time repeats itself"


def test_what_was_decoded_once_is_taken_from_the_cache(play: Any, tmp_path: Path) -> None:
    cache = tmp_path / "heard.json"
    _, _, first = play(160, "I would like a room.", cache)
    outcome, _, second = play(160, "Something else.", cache)
    assert first > 0
    assert second == 0
    assert set(outcome.texts.values()) == {"I would like a room."}


# --------------------------------------------------------------------------------------------------------------- cut-offs


@pytest.fixture
def cutoffs(program: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    program("record")
    module = program("cutoffs")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(module, "commit", lambda: "abc1234+")
    monkeypatch.setattr(module, "machine", lambda: "mine")
    return module


def test_cut_offs_are_those_of_this_commit_and_machine(cutoffs: ModuleType) -> None:
    def run(commit: str, machine: str, cut_off: int) -> str:
        return json.dumps({"commit": commit, "machine": machine, "all": {"cases": 64, "cut_off": cut_off, "repaired": 0}})

    lines = [run("abc1234", "mine", 1), run("abc1234", "mine", 2), run("abc1234", "yours", 3), run("fff0000", "mine", 4)]
    (cutoffs.RESULTS / "endpointing.jsonl").write_text("\n".join(lines) + "\n")
    assert cutoffs.last_cut_offs()["cut_off"] == 2
    assert cutoffs.in_words(cutoffs.last_cut_offs()) == "2 of 64 (3.1 %), 0 repaired"


def test_without_a_run_that_fits_they_are_not_measured(cutoffs: ModuleType) -> None:
    assert cutoffs.last_cut_offs() is None
    line = {"commit": "fff0000", "machine": "mine", "all": {"cases": 1, "cut_off": 0, "repaired": 0}}
    (cutoffs.RESULTS / "endpointing.jsonl").write_text(json.dumps(line) + "\n")
    assert cutoffs.in_words(cutoffs.last_cut_offs()) == "not measured"
