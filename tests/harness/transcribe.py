"""Audio on stdin (length in 4 bytes, PCM16 LE mono 16 kHz), a line of text on stdout for each. Ends with stdin."""

from __future__ import annotations

import asyncio
import sys

from rtvi_actors.config import Config
from rtvi_actors.stt.engine import SttRequest
from rtvi_actors.stt.faster_whisper import FasterWhisper


async def main() -> None:
    backend = FasterWhisper(Config())
    await asyncio.to_thread(backend.load)
    while head := sys.stdin.buffer.read(4):
        pcm = sys.stdin.buffer.read(int.from_bytes(head, "big"))
        texts = [piece.text async for piece in backend.stream("harness", SttRequest(pcm))]
        print(" ".join("".join(texts).split()), flush=True)
    backend.close()


asyncio.run(main())
