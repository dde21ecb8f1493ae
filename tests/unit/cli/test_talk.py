from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.cli import talk as talk_module
from rtvi_actors.cli.talk import talk
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing.recordings import write_wav

pytestmark = pytest.mark.unit


async def test_nothing_to_say_is_told_before_anything_is_opened(clients: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--wav FILE, --text .* or --microphone"):
        await talk("ws://x", wav=[], text=[], say=[], save=tmp_path)
    with pytest.raises(ConfigError, match="missing"):
        await talk("ws://x", wav=[tmp_path / "missing.wav"], text=[], say=[], save=tmp_path)
    assert clients == []


async def test_files_then_synthesized_then_typed(
    clients: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def speak(config: Config, line: str) -> bytes:
        return line.encode()

    monkeypatch.setattr(talk_module, "speak", speak)
    write_wav(tmp_path / "in.wav", b"\1\0" * 160, 16_000)
    await talk("ws://x", wav=[tmp_path / "in.wav"], text=["typed"], say=["spoken"], save=tmp_path / "out")
    [client] = clients
    assert client.said == [b"\1\0" * 160, b"spoken", "typed", "closed"]
    # The third answer made no sound: no file.
    assert sorted(os.listdir(tmp_path / "out")) == ["turn-1.wav", "turn-2.wav"]
    with wave.open(str(tmp_path / "out/turn-1.wav")) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getnframes()) == (24_000, 1, 240)
    printed = capsys.readouterr().out
    places = [printed.index(f"answer {number}") for number in (1, 2, 3)]
    assert places == sorted(places)
