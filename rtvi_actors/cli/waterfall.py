"""How a turn looks in a terminal: what was said, what was answered, and where the time went."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from rtvi_actors.testing.client import Turn

WIDTH = 44
"""Of the bars: with what stands before them, a line fits into 80 columns."""
COLOURS = {"endpointing": "yellow", "stt": "cyan", "llm": "magenta", "clause": "blue", "tts": "green", "playout": "white"}


def print_turn(console: Console, turn: Turn) -> None:
    """Transcript, answer, waterfall, and whatever went wrong."""
    for number, transcript in enumerate(turn.transcripts):
        cut = Text(" (cut)" if number < len(turn.transcripts) - 1 else "", "red")
        console.print(Text("  you  ", "bold cyan"), Text(transcript), cut)
    console.print(Text("  bot  ", "bold green"), Text(turn.answer.strip()) if turn.answer.strip() else Text("(no text)", "dim"))
    for error in turn.errors:
        console.print(Text("  error", "bold red"), Text(error))
    if turn.segments_ms:
        for line in waterfall(turn.segments_ms):
            console.print(line)
    if turn.voice_to_voice_ms is not None:
        own = f", own share {turn.own_share_ms:.0f} ms" if turn.own_share_ms is not None else ""
        console.print(Text(f"         voice to voice at the client {turn.voice_to_voice_ms:.0f} ms{own}", "bold"))


def waterfall(segments_ms: dict[str, float]) -> list[Text]:
    """One line per segment: its bar begins where the one before ends."""
    total = sum(segments_ms.values()) or 1.0
    lines, elapsed = [], 0.0
    for name, value in segments_ms.items():
        start, end = round(elapsed / total * WIDTH), round((elapsed + value) / total * WIDTH)
        bar = " " * start + ("█" * (end - start) or "▏")
        line = Text(f"         {name:<12}{value:6.0f} ms  ", "dim")
        line.append(bar, COLOURS.get(name, "white"))
        lines.append(line)
        elapsed += value
    return lines
