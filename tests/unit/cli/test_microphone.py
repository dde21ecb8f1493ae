"""Talking by microphone, with an audio library that is made up: no test machine has a sound card."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest

from rtvi_actors.cli import microphone
from rtvi_actors.cli.microphone import Loudspeaker
from rtvi_actors.edge.wire import AudioIn, decode
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing.client import Received

pytestmark = pytest.mark.unit


class Client:
    """What the command uses of an RtviClient. Ends when it has been sent two pieces."""

    def __init__(self, url: str, *, microphone: bool) -> None:
        assert not microphone
        self.messages: list[Received] = []
        self.audio: list[tuple[bytes, int]] = []
        self.sent: list[bytes] = []

    @property
    def closed(self) -> bool:
        return len(self.sent) >= 2

    async def __aenter__(self) -> Client:
        self.messages.append(Received("user-transcription", {"text": "Hello.", "final": True}, None, 0))
        self.messages.append(Received("bot-transcription", {"text": "Good evening."}, None, 0))
        Client.last = self
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def send_raw(self, data: bytes) -> None:
        self.sent.append(data)

    last: Client


class Sound(ModuleType):
    """sounddevice, with a microphone that hears two pieces as soon as it is started."""

    class PortAudioError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        super().__init__("sounddevice")
        self.open = 0
        self._broken = broken

    def RawInputStream(self, *, callback: Any, **how: Any) -> Any:
        if self._broken:
            raise self.PortAudioError("Error querying device -1")
        assert how == {"samplerate": 16_000, "blocksize": 320, "channels": 1, "dtype": "int16"}
        return _Stream(self, lambda: [callback(bytes(640), 320, None, None) for _ in range(2)])

    def RawOutputStream(self, *, callback: Any, **how: Any) -> Any:
        assert how["samplerate"] == 24_000
        return _Stream(self, lambda: callback(bytearray(960), 480, None, None))


class _Stream:
    def __init__(self, sound: Sound, started: Any) -> None:
        self._sound, self._started = sound, started

    def start(self) -> None:
        self._sound.open += 1
        self._started()

    def close(self) -> None:
        self._sound.open -= 1


def test_what_the_microphone_hears_is_sent_and_what_is_said_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    monkeypatch.setattr(microphone, "RtviClient", Client)
    asyncio.run(asyncio.wait_for(microphone.converse("ws://nowhere/ws"), 10))
    assert [decode(data) for data in Client.last.sent] == [AudioIn(bytes(640), 16_000, 1)] * 2
    assert sound.open == 0
    shown = capsys.readouterr().out
    assert "you  Hello." in shown
    assert "bot  Good evening." in shown


def test_the_loudspeaker_plays_in_order_and_drops_what_was_interrupted() -> None:
    client = Client("", microphone=False)
    speaker = Loudspeaker(client)  # type: ignore[arg-type]
    client.audio += [(b"aabb", 0), (b"cc", 0)]

    def play(frames: int) -> bytes:
        out = bytearray(frames * 2)
        speaker.fill(out, frames, None, None)
        return bytes(out)

    assert play(1) == b"aa"
    assert play(3) == b"bbcc\0\0"
    client.audio += [(b"dddd", 0)]
    assert play(1) == b"dd"
    speaker.drop()
    assert play(1) == b"\0\0"
    client.audio += [(b"ee", 0)]
    assert play(1) == b"ee"


def test_no_sound_card_and_no_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(microphone, "RtviClient", Client)
    monkeypatch.setitem(sys.modules, "sounddevice", Sound(broken=True))
    with pytest.raises(ConfigError, match="no microphone or loudspeaker here"):
        asyncio.run(microphone.converse("ws://nowhere/ws"))
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"pip install 'rtvi_actors\[microphone\]'"):
        asyncio.run(microphone.converse("ws://nowhere/ws"))
