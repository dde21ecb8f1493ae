"""Interims of recorded speech by the real model."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rtvi_actors.config import Config
from rtvi_actors.stt.engine import SttRequest
from rtvi_actors.stt.faster_whisper import FasterWhisper
from rtvi_actors.stt.interims import Answered, Ask, Heard, Interims, Opened, Tell
from rtvi_actors.stt.segments import loudness
from rtvi_actors.testing.recordings import Recording, available, recorded

pytestmark = [pytest.mark.models, pytest.mark.skipif(not available(), reason="Debian's pocketsphinx-testdata is not installed")]

PIECE_BYTES = 1_024


@pytest.fixture(scope="module")
def whisper():
    backend = FasterWhisper(Config().replace(stt={"threads": 1}))
    backend.load()
    yield backend
    backend.close()


async def captions(whisper: FasterWhisper, pcm: bytes) -> list[tuple[int, str]]:
    """(ms since the turn began, words) of everything told while ``pcm`` is said; decoding takes no time."""
    interims, told = Interims(500), []
    interims.handle(Opened(under_bot=False), 0)
    for end in range(PIECE_BYTES, len(pcm), PIECE_BYTES):
        now_ms = end // 32
        for command in interims.handle(Heard(end // 2, loudness(pcm[end - PIECE_BYTES : end])), now_ms):
            assert isinstance(command, Ask)
            request = SttRequest(pcm=pcm[command.first * 2 : command.last * 2], final=False)
            [piece] = [piece async for piece in whisper.stream("s1", request)]
            told += [(now_ms, c.text) for c in interims.handle(Answered(piece.text, "en"), now_ms) if isinstance(c, Tell)]
    return told


def words(text: str) -> list[str]:
    return text.lower().replace("mr.", "mister").replace("-", " ").replace(",", "").replace("?", "").split()


def right(heard: str, said: str) -> int:
    """How many of the words heard were said at all."""
    known = set(words(said))
    return sum(word.strip(".") in known for word in words(heard))


@pytest.mark.parametrize("clip", recorded("librivox") if available() else [], ids=lambda clip: clip.name[-4:])
async def test_the_words_grow_while_they_are_said(whisper, clip: Recording):
    told = await captions(whisper, clip.pcm)
    assert len(told) >= clip.duration_ms / 1_000, "about two a second, but for silences"
    counts = [len(words(text)) for _, text in told]
    assert counts[-1] >= 0.6 * len(words(clip.text))
    assert sum(later < earlier for earlier, later in pairwise(counts)) <= 1
    assert right(told[-1][1], clip.text) >= 0.6 * counts[-1]


async def test_a_long_turn_goes_on_being_told(whisper):
    clips = recorded("librivox")
    said = " ".join(clip.text for clip in clips)
    told = await captions(whisper, b"".join(clip.pcm for clip in clips))
    count = len(words(told[-1][1]))
    assert 0.8 * len(words(said)) <= count <= 1.2 * len(words(said))
    assert right(told[-1][1], said) >= 0.7 * count
