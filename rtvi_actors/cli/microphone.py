"""``rtvi-actors talk --microphone``: a conversation with the machine's own microphone and loudspeaker.

sounddevice (PortAudio) is optional: ``pip install 'rtvi_actors[microphone]'``. Use headphones: the bot hears its own
voice otherwise.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rich.console import Console

from rtvi_actors.edge.wire import encode_audio
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing.client import BOT_RATE_HZ, Received, RtviClient
from rtvi_actors.testing.recordings import RATE_HZ

BLOCK_MS = 20
POLL_S = 0.05


class Loudspeaker:
    """Plays what a client received, from PortAudio's thread; drops the rest of an answer that was interrupted."""

    def __init__(self, client: RtviClient) -> None:
        self._client = client
        self._next = 0
        """Index in ``client.audio`` of what is played next."""
        self._left = b""

    def drop(self) -> None:
        """The bot was interrupted: what is here of it is not played."""
        self._next, self._left = len(self._client.audio), b""

    def fill(self, out: Any, frames: int, _time: Any, _status: Any) -> None:
        """PortAudio wants ``frames`` samples in ``out`` (a buffer of PCM16)."""
        wanted = frames * 2
        while len(self._left) < wanted and self._next < len(self._client.audio):
            self._left += self._client.audio[self._next][0]
            self._next += 1
        out[:] = self._left[:wanted].ljust(wanted, b"\0")
        self._left = self._left[wanted:]


async def converse(url: str) -> None:
    """Talk until Ctrl-C, or until the server ends the session.

    Raises:
        ConfigError: sounddevice or an audio device is missing.
        RtviActorsError: no connection, or no place.
    """
    audio = _sounddevice()
    console = Console()
    async with RtviClient(url, microphone=False) as client:
        speaker = Loudspeaker(client)
        loop = asyncio.get_running_loop()

        def hear(pcm: Any, _frames: int, _time: Any, _status: Any) -> None:
            loop.call_soon_threadsafe(_send, client, bytes(pcm))

        with _Devices(audio, hear, speaker):
            console.print("talk; Ctrl-C ends it. Headphones keep the bot from hearing itself.", style="dim")
            seen = 0
            while not client.closed:
                for message in client.messages[seen:]:
                    _show(console, speaker, message)
                seen = len(client.messages)
                await asyncio.sleep(POLL_S)
    console.print("the session is over", style="dim")


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise ConfigError("no microphone without sounddevice: pip install 'rtvi_actors[microphone]'") from None
    except OSError as error:
        raise ConfigError(
            f"sounddevice finds no PortAudio ({error}): install it, in Debian apt-get install libportaudio2"
        ) from None
    return sounddevice


class _Devices:
    """Both streams, open while the block runs."""

    def __init__(self, audio: Any, hear: Any, speaker: Loudspeaker) -> None:
        common = {"channels": 1, "dtype": "int16"}
        try:
            self._streams = [
                audio.RawInputStream(samplerate=RATE_HZ, blocksize=RATE_HZ * BLOCK_MS // 1_000, callback=hear, **common),
                audio.RawOutputStream(
                    samplerate=BOT_RATE_HZ, blocksize=BOT_RATE_HZ * BLOCK_MS // 1_000, callback=speaker.fill, **common
                ),
            ]
        except (audio.PortAudioError, ValueError) as error:
            raise ConfigError(f"no microphone or loudspeaker here ({error}); rtvi-actors talk --wav FILE needs none") from None

    def __enter__(self) -> None:
        for stream in self._streams:
            stream.start()

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()


def _send(client: RtviClient, pcm: bytes) -> None:
    if not client.closed:
        client.send_raw(encode_audio(pcm, RATE_HZ))


def _show(console: Console, speaker: Loudspeaker, message: Received) -> None:
    match message.type:
        case "bot-interrupted":
            speaker.drop()
            console.print("  -- interrupted --", style="yellow")
        case "user-transcription" if message.data["final"]:
            console.print(f"you  {message.data['text']}", markup=False)
        case "bot-transcription":
            console.print(f"bot  {message.data['text']}", style="green", markup=False)
        case "error":
            console.print(f"error: {message.data['error']}", style="red", markup=False)
