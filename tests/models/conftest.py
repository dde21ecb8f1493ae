"""What the tests of both voices share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rtvi_actors.tts.engine import TtsRequest
from rtvi_actors.tts.piece_worker import Steps


@pytest.fixture
def pieces_in_order(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[list[str]]]:
    """``await pieces_in_order(voice, *texts)``: speak them at once; the texts of all pieces, as the voice's thread computed them.

    Not as they are read: a reader that wakes late gets several at once.
    """

    async def speak_all(voice: Any, *texts: str) -> list[str]:
        order: list[str] = []
        real_speak = voice._worker._speak

        def speak(request: TtsRequest) -> Steps:
            for step in real_speak(request):
                if step.pcm:
                    order.append(request.text)
                yield step

        async def read(text: str) -> None:
            async for _ in voice.stream(text, TtsRequest(text)):
                pass

        monkeypatch.setattr(voice._worker, "_speak", speak)
        await asyncio.gather(*map(read, texts))
        return order

    return speak_all
