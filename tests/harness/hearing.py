"""What the harness hears the bot say: a speech service that asks ``transcribe.py``, which runs in the project's own Python."""

from __future__ import annotations

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path

from pipecat.frames.frames import Frame, TranscriptionFrame
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.utils.time import time_now_iso8601

RATE_HZ = 16_000


class Whisper(SegmentedSTTService):
    """The project's default speech model."""

    def __init__(self) -> None:
        super().__init__(sample_rate=RATE_HZ, settings=STTSettings(model=None, language=None))
        self._process: Process | None = None

    @property
    def wants_wav_segments(self) -> bool:
        return False

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame, None]:
        if self._process is None:
            command = [os.environ["TRANSCRIBE_PYTHON"], str(Path(__file__).with_name("transcribe.py"))]
            self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(len(audio).to_bytes(4, "big") + audio)
        text = (await self._process.stdout.readline()).decode().strip()
        if text:
            yield TranscriptionFrame(text, self._user_id, time_now_iso8601())

    async def cleanup(self) -> None:
        await super().cleanup()
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


def whisper(_: dict[str, object]) -> Whisper:
    return Whisper()
