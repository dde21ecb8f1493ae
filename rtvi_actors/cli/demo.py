"""``rtvi-actors demo``: starts the app, holds a spoken conversation with it in the terminal, and stays up.

Three recorded utterances, each answered, then a fourth whose answer is interrupted. Nothing is faked: the recordings go through
the WebSocket in real time, and real models hear, answer and speak.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path

from rich.console import Console

from rtvi_actors.cli.serve import App, serving
from rtvi_actors.cli.waterfall import print_turn
from rtvi_actors.config import Config
from rtvi_actors.testing.client import BOT_RATE_HZ, RtviClient
from rtvi_actors.testing.recordings import Recording, available, recorded, synthesized, write_wav

INTERRUPT_AFTER_MS = 800
"""How long the bot may talk before it is interrupted."""
STOP_POLL_S = 0.2


def run(config: Config, *, once: bool, save: Path) -> None:
    """Run the demo; without ``once`` the app stays up until Ctrl-C.

    Raises:
        RtviActorsError: as ``serve``; or the bot did not answer.
    """
    console = Console()
    with serving(config) as app:
        url = app.url.replace("http", "ws", 1) + "/ws"
        asyncio.run(_until_stopped(app, _converse(console, config, url, save)))
        if app.stopping:
            return
        print(f"ready {app.url}", flush=True)
        if not once:
            console.print(f"talk to it: rtvi-actors talk {url} --wav FILE; Ctrl-C ends it", style="dim")
            app.wait()


async def _until_stopped(app: App, conversation: Coroutine[None, None, None]) -> None:
    """Hold the conversation, or a part of it: Ctrl-C ends it at once, not when it is over."""
    talking = asyncio.create_task(conversation, name="demo conversation")
    while not talking.done() and not app.stopping:
        await asyncio.wait({talking}, timeout=STOP_POLL_S)
    if app.stopping:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
    else:
        await talking


async def _converse(console: Console, config: Config, url: str, save: Path) -> None:
    if available():
        recordings = recorded("librivox")
        console.print("four utterances of a LibriVox reading (Jane Austen), spoken into the WebSocket in real time", style="dim")
    else:
        recordings = await synthesized(config)
        console.print("no recorded speech here (apt-get install pocketsphinx-testdata): synthesized speech instead", style="yellow")
    by_length = sorted(recordings, key=lambda recording: recording.duration_ms)
    async with RtviClient(url) as client:
        console.print(f"bot-ready after {client.ready_ms:.0f} ms, RTVI {client.bot_version}", style="dim")
        for number, recording in enumerate(by_length[:3], 1):
            console.rule(f"turn {number}", style="dim")
            turn = await client.turn(client.say(recording.pcm))
            print_turn(console, turn)
            write_wav(save / f"turn-{number}.wav", turn.audio, BOT_RATE_HZ)
        await _interrupt(console, client, by_length[3], by_length[0])
    console.print(f"the bot's audio is in {save}/", style="dim", markup=False)


async def _interrupt(console: Console, client: RtviClient, first: Recording, second: Recording) -> None:
    """Say ``first``, and ``second`` while the bot answers it."""
    console.rule("turn 4, and an interruption", style="dim")
    start = len(client.messages)
    utterance = client.say(first.pcm)
    await utterance.done.wait()
    await client.wait(lambda message: message.type == "bot-started-speaking" and message.at_ns > utterance.ended_ns, 30.0, start)
    await asyncio.sleep(INTERRUPT_AFTER_MS / 1_000)
    before = client.heard(utterance)
    interruption = client.say(second.pcm)
    ends = {"bot-interrupted", "bot-stopped-speaking"}
    end = await client.wait(lambda message: message.type in ends, 20.0, interruption.first_message)
    print_turn(console, before)
    if end.type == "bot-interrupted":
        how = f"interrupted, {(end.at_ns - interruption.started_ns) / 1e6:.0f} ms into the recording"
    else:
        how = "not interrupted: the answer was over before"
    console.print(f"  -- {how} --", style="yellow")
    print_turn(console, await client.turn(interruption))
