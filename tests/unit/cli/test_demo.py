"""The demo's conversation, without the app around it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rtvi_actors.cli import demo
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.testing.recordings import Recording

pytestmark = pytest.mark.unit

RECORDINGS = [Recording(f"clip-{length}", "words", bytes([length, 0]) * length) for length in (50, 10, 40, 20, 30)]


class FakeApp:
    url = "http://127.0.0.1:7860"
    stopping = False


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setattr(demo, "INTERRUPT_AFTER_MS", 0)
    monkeypatch.setattr(demo, "available", lambda: True)
    monkeypatch.setattr(demo, "recorded", lambda name: RECORDINGS)
    return Console(color_system=None, width=160)


async def test_the_demo_says_three_recordings_and_interrupts_the_fourth(
    clients: list[Any], console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await demo._converse(console, Config(), "ws://x", tmp_path)
    [client] = clients
    # The shortest first; the fourth is interrupted by the shortest.
    assert [len(said) // 2 for said in client.said[:-1]] == [10, 20, 30, 40, 10]
    assert [message.type for message in client.waited] == ["bot-started-speaking", "bot-interrupted"]
    assert sorted(os.listdir(tmp_path)) == ["turn-1.wav", "turn-2.wav", "turn-3.wav"]
    assert "-- interrupted, 300 ms into the recording --" in capsys.readouterr().out


async def test_an_answer_that_was_over_before_is_not_called_interrupted(
    clients: list[Any], console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.RtviClient, "end", "bot-stopped-speaking")
    await demo._converse(console, Config(), "ws://x", tmp_path)
    assert "-- not interrupted" in capsys.readouterr().out


async def test_synthesized_speech_is_told_as_such(
    clients: list[Any], console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def synthesized(config: Config) -> list[Recording]:
        return RECORDINGS

    monkeypatch.setattr(demo, "available", lambda: False)
    monkeypatch.setattr(demo, "synthesized", synthesized)
    await demo._converse(console, Config(), "ws://x", tmp_path)
    assert "synthesized speech instead" in capsys.readouterr().out


async def test_a_signal_ends_the_conversation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STOP_POLL_S", 0.001)
    app: Any = FakeApp()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def converse() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = asyncio.create_task(demo._until_stopped(app, converse()))
    await begun.wait()
    assert not running.done()
    app.stopping = True
    await asyncio.wait_for(running, 5)
    assert cancelled.is_set()


async def test_an_error_of_the_conversation_is_the_demo_s() -> None:
    async def converse() -> None:
        raise ConfigError("no answer")

    with pytest.raises(ConfigError, match="no answer"):
        await demo._until_stopped(FakeApp(), converse())  # type: ignore[arg-type]
