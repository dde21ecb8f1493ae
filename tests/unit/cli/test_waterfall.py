from __future__ import annotations

import io

import pytest
from rich.console import Console

from rtvi_actors.cli.waterfall import WIDTH, print_turn, waterfall
from rtvi_actors.testing.client import Turn

pytestmark = pytest.mark.unit


def printed(turn: Turn) -> list[str]:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    print_turn(console, turn)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def bar(line: str) -> tuple[int, int]:
    """Where the bar of a line begins, and how long it is."""
    drawn = line.partition(" ms  ")[2]
    return len(drawn) - len(drawn.lstrip()), len(drawn.strip())


def test_each_bar_begins_where_the_one_before_ends() -> None:
    lines = [line.plain for line in waterfall({"endpointing": 250.0, "stt": 250.0, "llm": 500.0})]
    assert [bar(line) for line in lines] == [(0, WIDTH // 4), (WIDTH // 4, WIDTH // 4), (WIDTH // 2, WIDTH // 2)]
    assert lines[0].split()[:3] == ["endpointing", "250", "ms"]


def test_a_segment_without_length_is_still_seen() -> None:
    [first, second] = [line.plain for line in waterfall({"stt": 0.0, "llm": 100.0})]
    assert bar(first) == (0, 1)
    assert bar(second) == (0, WIDTH)


def test_every_line_fits_into_80_columns() -> None:
    lines = waterfall({"endpointing": 12_345.0, "stt": 0.0, "playout": 0.4})
    assert max(len(line.plain) for line in lines) < 80


@pytest.mark.parametrize("segments", [{}, {"stt": 0.0}])
def test_a_turn_of_no_time_is_no_division_by_zero(segments: dict[str, float]) -> None:
    assert len(waterfall(segments)) == len(segments)


def test_a_turn_is_printed_from_its_transcript_to_its_latency() -> None:
    turn = Turn(
        transcripts=["hello"], answer=" Good evening. ", segments_ms={"stt": 100.0}, voice_to_voice_ms=512.4, own_share_ms=20.4
    )
    lines = printed(turn)
    assert lines[0].split() == ["you", "hello"]
    assert lines[1].split() == ["bot", "Good", "evening."]
    assert lines[2].split()[0] == "stt"
    assert lines[3].strip() == "voice to voice at the client 512 ms, own share 20 ms"
    assert len(lines) == 4


def test_a_cut_turn_an_error_and_silence_are_told() -> None:
    lines = printed(Turn(transcripts=["he was", "not"], errors=["the voice failed"]))
    assert [" ".join(line.split()) for line in lines] == ["you he was (cut)", "you not", "bot (no text)", "error the voice failed"]


def test_what_was_said_is_no_markup() -> None:
    assert printed(Turn(transcripts=["see [bold]x[/bold]"], answer="[/nope]", errors=["[red]"])) == [
        "  you   see [bold]x[/bold]",
        "  bot   [/nope]",
        "  error [red]",
    ]
