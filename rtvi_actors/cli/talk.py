"""``rtvi-actors talk``: one turn with a running app, from a WAV file, typed text, or synthesized speech."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rtvi_actors.cli.waterfall import print_turn
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing.client import BOT_RATE_HZ, RtviClient, Turn
from rtvi_actors.testing.recordings import read_wav, speak, write_wav


async def talk(url: str, *, wav: list[Path], text: list[str], say: list[str], save: Path) -> None:
    """Say each of ``wav``, ``say``, ``text`` in turn, print each answer, save the bot's audio as WAV files in ``save``.

    Raises:
        ConfigError: nothing to say, or a file that cannot be read.
        RtviActorsError: no connection, no place, or no answer.
    """
    if not (wav or text or say):
        raise ConfigError('nothing to say: give --wav FILE, --text "...", --say "..." or --microphone')
    console = Console()
    spoken = [(str(path), read_wav(path)) for path in wav]
    if say:
        with console.status("loading the voice"):
            spoken += [(line, await speak(Config(), line)) for line in say]
    async with RtviClient(url) as client:
        console.print(f"bot-ready after {client.ready_ms:.0f} ms, RTVI {client.bot_version}", style="dim")
        number = 0
        for label, pcm in spoken:
            console.print(f"speaking {label}", style="dim", markup=False)
            number += 1
            _show(console, await client.turn(client.say(pcm)), save / f"turn-{number}.wav")
        for line in text:
            console.print(f"typing {line!r}", style="dim", markup=False)
            number += 1
            _show(console, await client.turn(client.send_text(line)), save / f"turn-{number}.wav")


def _show(console: Console, turn: Turn, path: Path) -> None:
    print_turn(console, turn)
    if turn.audio:
        write_wav(path, turn.audio, BOT_RATE_HZ)
        console.print(f"         saved {path}", style="dim", markup=False)
