"""What was heard of an answer, through all pure parts: frames, join, playout, translator, context. Cut at any moment."""

from __future__ import annotations

import pytest

from rtvi_actors.edge.join import Join, Output, Play
from rtvi_actors.edge.playout import Heard, Playout, PlayoutEvent, SendAudio, Tick, WakeAt
from rtvi_actors.frames.types import AudioEnded, BotAudio, Cancel, Clause, Frame, LlmEnded, LlmStarted, Marks, TurnStarted
from rtvi_actors.llm.context import Context
from rtvi_actors.rtvi.events import Event
from rtvi_actors.rtvi.translate import Translator

pytestmark = pytest.mark.unit

CLAUSES = ["One two three. ", "Four five."]
MARKS = [[[300, 0], [2_900, 3], [3_100, 4], [5_000, 7], [5_100, 8], [9_000, 14]], [[0, 0], [4_000, 4], [4_200, 5], [8_000, 10]]]
SAMPLES = [10_000, 8_500]
ENDS = [2_900, 5_000, 9_000, 14_000, 18_000]
"""Where the five words end, in samples of the whole answer."""


class Chain:
    """The pure parts of the edge and of the model's context, with a clock that jumps from wake to wake."""

    def __init__(self, version: tuple[int, int, int], frame_samples: int) -> None:
        self.sent_samples = 0
        self.context = Context("")
        self.messages: list[tuple[str, dict[str, object]]] = []
        self._join, self._playout, self._translator = Join(), Playout(80), Translator(version)
        self._now_ms, self._wake_ms = 0, -1
        started = [TurnStarted(turn=1, request="r", source="say"), LlmStarted(turn=1, attempt=1, user_text="")]
        self.take(*started, *(Clause(turn=1, attempt=1, clause=at, text=text) for at, text in enumerate(CLAUSES)))
        for clause, samples in enumerate(SAMPLES):
            self.take(Marks(turn=1, attempt=1, clause=clause, marks=MARKS[clause]))
            for first in range(0, samples, frame_samples):
                pcm = bytes(2 * min(frame_samples, samples - first))
                self.take(BotAudio(turn=1, attempt=1, clause=clause, first_sample=first, pcm=pcm))
            self.take(AudioEnded(turn=1, attempt=1, clause=clause, samples=samples))
        self.take(LlmEnded(turn=1, attempt=1, clauses=2, reason="say"))

    def take(self, *frames: Frame) -> None:
        for frame in frames:
            self._run(self._join.handle(frame))

    def until(self, now_ms: int) -> None:
        while 0 <= self._wake_ms <= now_ms:
            self._now_ms = self._wake_ms
            self._play(Tick())
        self._now_ms = now_ms

    def _run(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Play):
                self._play(output.event)
            else:
                self._tell(output)

    def _play(self, event: PlayoutEvent) -> None:
        self._wake_ms = -1
        for command in self._playout.handle(event, self._now_ms):
            match command:
                case WakeAt():
                    self._wake_ms = command.at_ms
                case SendAudio():
                    self.sent_samples += len(command.pcm) // 2
                case Heard():
                    whole = (command.clause, command.char) == (1, 10)
                    self.context.append_heard(1, CLAUSES, command.clause, command.char, interrupted=not whole)
                    self._run(self._join.handle(command))
                case _:
                    self._tell(command)

    def _tell(self, event: object) -> None:
        if isinstance(event, Event):
            self.messages += [(message.type, message.data) for message in self._translator.handle(event, "now")]

    def kept(self) -> list[str]:
        return [word for message in self.context.history for word in message.text.split()]

    def told(self, kind: str) -> list[dict[str, object]]:
        return [data for name, data in self.messages if name == kind]


WORDS = ["One", "two", "three.", "Four", "five."]


@pytest.mark.parametrize("cut_ms", range(0, 880, 20))
@pytest.mark.parametrize("version", [(2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("frame_samples", [960, 333])
def test_the_context_has_the_words_that_were_sent_and_told(cut_ms: int, version: tuple[int, int, int], frame_samples: int) -> None:
    chain = Chain(version, frame_samples)
    chain.until(cut_ms)
    sent = chain.sent_samples
    chain.take(Cancel(fence=2, reason="speech"))
    heard = WORDS[: sum(sent >= end for end in ENDS)]
    assert chain.kept() == heard
    assert [data["text"] for data in chain.told("bot-tts-text")] == heard
    if version[0] == 1:
        assert [data["text"] for data in chain.told("bot-output") if data["spoken"]] == heard
    else:
        last = {data["segment_id"]: data["spoken_progress"]["accumulated_text"] for data in chain.told("bot-output")}
        assert " ".join(last[segment] for segment in sorted(last)).split() == heard
    assert all(message.interrupted == (len(heard) < 5) for message in chain.context.history)
