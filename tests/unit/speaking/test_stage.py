"""The stage on a port that records: who is told what, in which order, and which audio goes along."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from rtvi_actors.config import Config, Speaking
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.frames.types import (
    Attach,
    Audio,
    BotState,
    Cancel,
    Error,
    Frame,
    Metrics,
    Pause,
    Played,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnMayEnd,
    TurnRequest,
    TurnStarted,
)
from rtvi_actors.speaking import stage as stage_module
from rtvi_actors.speaking.end_of_turn import Judge
from rtvi_actors.speaking.events import EndJudged
from rtvi_actors.speaking.stage import SpeakingStage, SpeakingStages
from rtvi_actors.speaking.turn import MAX_REQUESTS
from rtvi_actors.speaking.vad import VadState
from rtvi_actors.testing import recordings
from rtvi_actors.testing.fakes import FakePort

unit = pytest.mark.unit
WINDOW = 512
ALL = ("edge", "llm", "stt", "tts")


class LoudVad:
    """Takes every sound for speech."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def probability(self, window: bytes, state: VadState) -> float:
        assert len(window) == 2 * WINDOW
        self.seen.append(window)
        return 0.9 if any(window) else 0.1


class CountedState(VadState):
    """Counts how often the model forgot."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1


class Session:
    """A stage with a microphone."""

    def __init__(self, judge: Judge | None = None, **changes: int) -> None:
        self.port = FakePort()
        self.vad = LoudVad()
        self.stage = SpeakingStage(self.port, Speaking(**changes), self.vad, judge)
        self.sample = 0

    async def hear(self, pcm: bytes) -> None:
        await self.port.advance(len(pcm) // 32)
        self.stage.receive(Audio(self.sample, pcm))
        self.sample += len(pcm) // 2

    async def say(self, windows: int) -> None:
        for _ in range(windows):
            number = self.sample // WINDOW % 250 + 1
            await self.hear(bytes([number]) * 2 * WINDOW)

    async def hush(self, windows: int) -> None:
        for _ in range(windows):
            await self.hear(bytes(2 * WINDOW))

    def take(self) -> list[tuple[str, Frame]]:
        """What was sent since the last time."""
        taken = list(self.port.sent)
        self.port.sent.clear()
        return taken

    def told(self, kind: type[Frame]) -> tuple[str, ...]:
        return tuple(sorted(role for role, frame in self.port.sent if isinstance(frame, kind)))

    async def answer(self) -> None:
        """Turn 1 is over, the bot speaks; what was sent is forgotten."""
        await self.say(10)
        await self.hush(3)
        self.stage.receive(Transcript("What is the time?", True, "en", turn=1, attempt=1))
        await self.hush(10)
        self.stage.receive(BotState("speaking", turn=1))
        self.take()


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = Session()
    yield session
    await session.stage.close()
    assert session.port.waiting_timers == 0
    assert session.port.running == 0


@unit
async def test_a_turn_reaches_everybody_and_its_audio_stt(session: Session) -> None:
    await session.hush(20)
    await session.say(10)
    assert session.told(TurnStarted) == ALL
    (started,) = session.port.frames("llm", TurnStarted)
    assert started == TurnStarted("", "speech", turn=1)
    audio = session.port.frames("stt", Audio)
    # 300 ms before the onset, whole windows.
    assert [frame.first_sample // WINDOW for frame in audio] == list(range(10, 30))
    assert {frame.turn for frame in audio} == {1}
    assert b"".join(frame.pcm for frame in audio) == b"".join(session.vad.seen[10:])
    assert session.told(Audio) == ("stt",) * 20


@unit
async def test_turn_may_end_goes_behind_the_audio_it_is_about(session: Session) -> None:
    await session.say(10)
    await session.hush(3)
    to_stt = session.port.frames("stt")
    assert to_stt[-1] == TurnMayEnd(13 * WINDOW, turn=1, attempt=1)
    assert to_stt[-2].first_sample == 12 * WINDOW
    assert session.told(TurnMayEnd) == ("edge", "stt")


@unit
async def test_the_end_is_timed_without_any_audio(session: Session) -> None:
    await session.say(10)
    await session.hush(3)
    session.take()
    session.stage.receive(Transcript("What is the time?", True, "en", turn=1, attempt=1))
    await session.port.advance(200)
    assert sorted(session.take()) == [(role, TurnEnded(10 * WINDOW, turn=1, attempt=1)) for role in ("edge", "llm", "stt")]
    await session.hush(3)
    assert session.take() == []  # the turn is over: nothing of it is forwarded any more


@unit
async def test_speech_that_resumes_is_told_to_all_and_forwarded_without_a_gap(session: Session) -> None:
    await session.say(10)
    await session.hush(4)
    await session.say(2)
    assert session.told(SpeechResumed) == ALL
    assert session.port.frames("tts", SpeechResumed) == [SpeechResumed(turn=1, attempt=1)]
    assert [frame.first_sample for frame in session.port.frames("stt", Audio)] == [WINDOW * at for at in range(16)]


@unit
async def test_a_microphone_that_stops_ends_the_turn(session: Session) -> None:
    await session.say(10)
    session.take()
    await session.port.advance(1_500)
    sent = session.take()
    assert sent[0] == ("stt", TurnMayEnd(10 * WINDOW, turn=1, attempt=1))
    assert {role: frame for role, frame in sent[1:]} == dict.fromkeys(
        ("stt", "llm", "edge"), TurnEnded(10 * WINDOW, turn=1, attempt=1)
    )


@unit
async def test_barge_in_pauses_cancels_and_only_then_ends(session: Session) -> None:
    await session.answer()
    await session.say(6)
    assert session.told(Pause) == ALL
    assert session.port.frames("edge") == [TurnStarted("", "speech", True, 1, turn=2), Pause(turn=1)]
    await session.hush(8)
    session.take()
    session.stage.receive(Transcript("Stop.", True, "en", turn=2, attempt=1))
    assert session.told(Cancel) == ALL
    end = TurnEnded(session.sample - 8 * WINDOW, turn=2, attempt=1)
    assert session.port.frames("edge") == [Cancel(2, "barge-in", 1, turn=2), end]
    assert session.port.sent[0][0] == "edge", "who makes the sound hears of it first"


@unit
async def test_a_cough_resumes_the_bot(session: Session) -> None:
    await session.answer()
    await session.say(6)
    await session.hush(4)
    session.take()
    session.stage.receive(Transcript("", True, "en", turn=2, attempt=1))
    assert session.told(Resume) == ALL
    assert [type(frame) for frame in session.port.frames("llm")] == [TurnEnded, Resume]


@unit
async def test_typed_text_stops_an_open_turn_and_its_audio(session: Session) -> None:
    await session.answer()
    await session.say(4)
    session.take()
    session.stage.receive(TurnRequest("r1", "text", True))
    assert session.port.frames("llm") == [
        Cancel(2, "text", 1, turn=2),
        TurnEnded(session.sample, turn=2, attempt=1),
        Cancel(3, "text", 2, turn=3),
        TurnStarted("r1", "text", False, 2, turn=3),
    ]
    assert session.port.frames("stt", TurnMayEnd) == [TurnMayEnd(session.sample, turn=2, attempt=1)], "what was said is still heard"
    session.take()
    await session.hush(4)
    assert session.take() == []


class Slowpoke:
    """An end-of-turn model that answers when the test says so."""

    def __init__(self, config: Config) -> None:
        self.go = threading.Event()
        self.asked: list[tuple[str, str, tuple[int, ...]]] = []

    def finished(self, text: str, language: str, pauses_ms: tuple[int, ...]) -> float:
        self.asked.append((text, language, pauses_ms))
        assert self.go.wait(10)
        return 0.0


@unit
async def test_an_end_of_turn_model_is_asked_and_obeyed() -> None:
    model = Slowpoke(Config())
    judge = Judge(model)
    session = Session(judge=judge)
    await session.say(10)
    await session.hush(3)
    session.stage.receive(Transcript("What is it?", True, "en", turn=1, attempt=1))
    model.go.set()
    while not isinstance(session.stage._machine.log[-1].event, EndJudged):
        await asyncio.sleep(0.001)
    assert model.asked == [("What is it?", "en", ())]
    await session.hush(20)
    assert session.port.frames("llm", TurnEnded) == [], "the rules would have ended it"
    await session.hush(3)
    assert len(session.port.frames("llm", TurnEnded)) == 1
    judge.close()


@unit
async def test_a_slow_end_of_turn_model_holds_nothing_up() -> None:
    model = Slowpoke(Config())
    judge = Judge(model)
    session = Session(judge=judge)
    await session.say(10)
    await session.hush(6)
    session.stage.receive(Transcript("What is it?", True, "en", turn=1, attempt=1))
    await session.hush(4)
    assert len(session.port.frames("llm", TurnEnded)) == 1
    await session.stage.close()
    session.take()
    model.go.set()
    judge.close()
    await asyncio.sleep(0.02)
    assert session.take() == [], "a late verdict on a closed session is nothing"


@unit
@pytest.mark.parametrize("end", [BotState("silent", turn=1), Played(0, 5, True, turn=1)], ids=["state", "played"])
async def test_what_the_bot_says_by_itself_waits_for_silence(session: Session, end: Frame) -> None:
    await session.answer()
    session.stage.receive(TurnRequest("r1", "say", False))
    session.stage.receive(Played(0, 3, False, turn=1))
    assert session.take() == []
    session.stage.receive(end)
    assert session.port.frames("tts") == [TurnStarted("r1", "say", turn=2)]


@unit
async def test_requests_beyond_the_bound_are_an_error(session: Session) -> None:
    await session.answer()
    for number in range(MAX_REQUESTS + 1):
        session.stage.receive(TurnRequest(f"r{number}", "say", False))
    ((role, error),) = session.take()
    assert role == "edge"
    assert isinstance(error, Error)
    assert (error.scope, error.retryable) == ("turn", True)
    assert f"r{MAX_REQUESTS}" in error.text


@unit
@pytest.mark.parametrize("size", [1, 2, 160, 640, 1_024, 1_500, 10_000])
async def test_pieces_of_any_length_become_windows(session: Session, size: int) -> None:
    pcm = bytes(index % 251 for index in range(8 * 2 * WINDOW))
    for at in range(0, len(pcm), max(2, size & ~1)):
        session.stage.receive(Audio(at // 2, pcm[at : at + max(2, size & ~1)]))
    assert b"".join(session.vad.seen) == pcm


@unit
async def test_an_odd_byte_is_left_out(session: Session) -> None:
    session.stage.receive(Audio(0, bytes(1_025)))
    session.stage.receive(Audio(512, bytes(1_024)))
    assert len(session.vad.seen) == 2


@unit
async def test_dropped_audio_does_not_break_the_turn(session: Session) -> None:
    session.stage._vad_state = state = CountedState()
    await session.say(10)
    await session.hear(b"\x01" * 100)  # 50 samples that no window comes of
    assert state.resets == 0
    session.sample += 16_000
    await session.say(5)
    assert state.resets == 1
    await session.hush(3)
    to_stt = session.port.frames("stt", Audio, TurnMayEnd)
    assert to_stt[10].first_sample == 10 * WINDOW + 50 + 16_000
    assert isinstance(to_stt[-1], TurnMayEnd)
    assert session.told(TurnStarted) == ALL


@unit
async def test_what_was_heard_before_the_microphone_was_off_is_no_pre_roll(session: Session) -> None:
    await session.hush(20)
    await session.port.advance(60_000)
    await session.say(2)
    assert [frame.first_sample // WINDOW for frame in session.port.frames("stt", Audio)] == [20, 21]


@unit
async def test_samples_that_count_anew_open_turns(session: Session) -> None:
    await session.hush(20)
    session.sample = 0
    await session.say(2)
    assert [frame.first_sample // WINDOW for frame in session.port.frames("stt", Audio)] == [0, 1]


@unit
async def test_frames_for_others_are_ignored(session: Session) -> None:
    session.stage.receive(Metrics("stt", "ttfb_ms", 1.0))
    assert session.take() == []


@unit
async def test_one_timer_at_a_time(session: Session) -> None:
    await session.answer()
    await session.say(30)
    await session.hush(5)
    assert session.port.waiting_timers == 1


@unit
def test_the_model_is_loaded_once_for_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[LoudVad] = []

    def load() -> LoudVad:
        made.append(LoudVad())
        return made[-1]

    monkeypatch.setattr(stage_module, "SileroVad", load)
    host = SpeakingStages(Config())
    stages = [host.create(FakePort(session=name), Attach({}, "")) for name in ("s1", "s2")]
    assert [stage._vad for stage in stages] == [made[0]] * 2
    host.close()


@unit
def test_a_missing_model_is_said_when_the_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelMissingError):
        SpeakingStages(Config())


# ----------------------------------------------------------------------------------------------------- real recordings


class Caller(Session):
    """Plays recordings to a stage with the real model; a transcriber that knows where each of them ends answers."""

    def __init__(self) -> None:
        self.port = FakePort()
        self.stage = SpeakingStages(Config()).create(self.port, Attach({}, ""))
        self.sample = 0
        self.answered = 0

    async def play(self, pcm: bytes, done: bool) -> None:
        """``done``: what is played ends the sentence."""
        for at in range(0, len(pcm), 640):
            await self.hear(pcm[at : at + 640])
            for frame in self.port.frames("stt", TurnMayEnd)[self.answered :]:
                self.answered += 1
                text = "That is all there is to say." if done else "and then..."
                self.stage.receive(Transcript(text, True, "en", turn=frame.turn, attempt=frame.attempt))
            for frame in self.port.frames("edge", TurnEnded)[-1:]:
                self.stage.receive(BotState("silent", turn=frame.turn))


@pytest.mark.models
@pytest.mark.skipif(not recordings.available(), reason="pocketsphinx-testdata is not installed")
@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="silero-vad is not installed")
@pytest.mark.parametrize("name", ["librivox", "cards"])
async def test_every_recorded_utterance_is_one_turn(name: str) -> None:
    caller = Caller()
    clips = recordings.recorded(name)
    ends = []
    for clip in clips:
        await caller.play(bytes(32_000), done=True)
        audible = 2 * recordings.audible_samples(clip.pcm)
        await caller.play(clip.pcm[: audible - 6_400], done=False)
        ends.append(caller.sample + 3_200)
        await caller.play(clip.pcm[audible - 6_400 :], done=True)
    await caller.play(bytes(64_000), done=True)
    kinds = [frame for frame in caller.port.frames("edge") if isinstance(frame, TurnStarted | TurnEnded | Cancel)]
    assert [type(frame) for frame in kinds] == [TurnStarted, TurnEnded] * len(clips)
    assert [frame.turn for frame in kinds[::2]] == list(range(1, len(clips) + 1))
    for end_sample, ended in zip(ends, kinds[1::2], strict=True):
        may_ends = [frame for frame in caller.port.frames("stt", TurnMayEnd) if frame.turn == ended.turn]
        assert [frame.attempt for frame in may_ends] == list(range(1, ended.attempt + 1))
        assert abs(ended.last_sample - end_sample) < 6_400, "speech ends within 400 ms of the last sound"
        audio = [frame for frame in caller.port.frames("stt", Audio) if frame.turn == ended.turn]
        assert all(later.first_sample - earlier.first_sample == WINDOW for earlier, later in pairwise(audio))
        assert audio[0].first_sample <= ended.last_sample <= may_ends[-1].last_sample
    await caller.stage.close()
