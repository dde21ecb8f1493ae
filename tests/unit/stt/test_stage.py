import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.config import Config
from rtvi_actors.frames.types import (
    Attach,
    Audio,
    Cancel,
    EngineCancel,
    EngineData,
    EngineEnd,
    EngineRequest,
    Error,
    Metrics,
    Pause,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnMayEnd,
    TurnStarted,
)
from rtvi_actors.stt.engine import SttPiece, SttRequest
from rtvi_actors.stt.stage import MAX_TURNS, SttStages
from rtvi_actors.testing.fakes import FakePort

pytestmark = pytest.mark.unit

ENGINE = "engine/stt"
LOUD = b"\x40\x1f"


class Session:
    """A stage with its port, and an engine that answers when the test says so."""

    def __init__(self, config: Config | None = None) -> None:
        self.port = FakePort(roles={"speaking", "llm", "edge", ENGINE})
        self.stage = SttStages(config or Config()).create(self.port, Attach(route={}, bot=""))

    async def receive(self, *frames) -> None:
        for frame in frames:
            self.stage.receive(frame)
        await self.port.settle()

    async def say(self, turn: int, first_sample: int, samples: int, pcm: bytes = LOUD) -> None:
        await self.receive(
            *(
                Audio(turn=turn, first_sample=at, pcm=pcm * min(512, first_sample + samples - at))
                for at in range(first_sample, first_sample + samples, 512)
            )
        )

    @property
    def requests(self) -> list[EngineRequest]:
        return self.port.frames(ENGINE, EngineRequest)

    @property
    def withdrawn(self) -> list[int]:
        return [frame.request for frame in self.port.frames(ENGINE, EngineCancel)]

    def utterance(self, index: int = -1) -> SttRequest:
        return msgspec.msgpack.decode(self.requests[index].payload, type=SttRequest)

    async def answer(self, text: str, index: int = -1, compute_ns: int = 5_000_000) -> None:
        request = self.requests[index].request
        payload = msgspec.msgpack.encode(SttPiece(text=text, language="en", compute_ns=compute_ns))
        await self.receive(
            EngineData(request=request, payload=payload, compute_ns=compute_ns),
            EngineEnd(request=request, compute_ns=compute_ns, queue_ns=0, error="", retryable=False),
        )

    async def fail(self, index: int = -1) -> None:
        request = self.requests[index].request
        await self.receive(EngineEnd(request=request, compute_ns=0, queue_ns=0, error="no memory", retryable=True))

    def finals(self, role: str = "llm") -> list[tuple[int, int, str]]:
        return [(frame.turn, frame.attempt, frame.text) for frame in self.port.frames(role, Transcript) if frame.final]


@pytest.fixture
async def session():
    session = Session()
    yield session
    await session.port.close()
    await session.stage.close()
    assert session.port.errors == []


def started(turn: int, source: str = "speech") -> TurnStarted:
    return TurnStarted(turn=turn, request="", source=source)


def may_end(turn: int, attempt: int, last_sample: int) -> TurnMayEnd:
    return TurnMayEnd(turn=turn, attempt=attempt, last_sample=last_sample)


def resumed(turn: int, attempt: int) -> SpeechResumed:
    return SpeechResumed(turn=turn, attempt=attempt)


def ended(turn: int, attempt: int) -> TurnEnded:
    return TurnEnded(turn=turn, attempt=attempt, last_sample=0)


async def test_a_turn_gives_one_final_to_all_who_wait_for_it(session):
    await session.receive(started(1))
    await session.say(1, 1_000, 5_000)
    assert session.requests == [], "nothing is decoded before the user may be done"
    await session.receive(may_end(1, 1, 4_000))
    assert session.utterance() == SttRequest(pcm=LOUD * 3_000)
    await session.answer("Hello there.")
    for role in ("llm", "speaking", "edge"):
        assert session.port.frames(role, Transcript) == [
            Transcript(turn=1, attempt=1, text="Hello there.", final=True, language="en")
        ]
    assert session.port.frames("edge", Error) == []
    assert session.withdrawn == []


async def test_the_final_tells_its_figures(session):
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    await session.port.advance(120)
    await session.answer("Yes.", compute_ns=90_000_000)
    figures = {frame.name: frame.value for frame in session.port.frames("edge", Metrics)}
    assert figures == {"ttfb_ms": 120.0, "processing_ms": 120.0, "compute_ms": 90.0}
    assert {(f.turn, f.attempt, f.segment) for f in session.port.frames("edge", Metrics)} == {(1, 1, "stt")}


async def test_speech_that_resumes_withdraws_the_request_and_the_next_attempt_has_it_all(session):
    await session.say(1, 0, 1_024)
    await session.receive(may_end(1, 1, 1_000), resumed(1, 1))
    await session.port.settle()
    await session.say(1, 1_024, 1_024)
    await session.receive(may_end(1, 2, 2_000))
    assert len(session.utterance().pcm) == 4_000
    await session.answer("All of it.")
    assert session.finals() == [(1, 2, "All of it.")]


async def test_a_running_request_is_withdrawn_when_speech_resumes(session):
    await session.say(1, 0, 1_024)
    await session.receive(may_end(1, 1, 1_000))
    await session.receive(resumed(1, 1))
    assert session.withdrawn == [session.requests[0].request]
    await session.answer("Too early.", index=0)
    assert session.finals() == []
    assert session.port.running == 0
    assert session.port.waiting_timers == 0


async def test_an_end_that_comes_after_its_resumption_is_ignored(session):
    await session.say(1, 0, 1_024)
    await session.receive(resumed(1, 1), may_end(1, 1, 1_000))
    assert session.requests == []
    await session.receive(may_end(1, 2, 1_000))
    await session.answer("Now.")
    assert session.finals() == [(1, 2, "Now.")]


async def test_a_new_attempt_voids_the_one_before_even_if_the_resumption_is_late(session):
    await session.say(1, 0, 1_024)
    await session.receive(may_end(1, 1, 500))
    await session.receive(may_end(1, 2, 1_000), resumed(1, 1))
    assert session.withdrawn == [session.requests[0].request]
    await session.answer("One.", index=0)
    await session.answer("Two.", index=1)
    assert session.finals() == [(1, 2, "Two.")]


async def test_cancel_voids_the_turns_below_its_fence(session):
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    await session.say(2, 512, 512)
    await session.receive(Cancel(fence=2, reason="barge-in"))
    assert session.withdrawn == [session.requests[0].request]
    await session.say(1, 1_024, 512)
    await session.receive(may_end(1, 2, 1_500), may_end(2, 1, 1_024))
    assert len(session.requests) == 2
    await session.answer("The second.")
    assert session.finals() == [(2, 1, "The second.")]


async def test_a_turn_that_ended_before_the_cancel_still_gets_its_final(session):
    """The user said it, and went on before it was decoded."""
    await session.receive(started(1))
    await session.say(1, 0, 512)
    await session.receive(ended(1, 1), started(2), Cancel(fence=2, reason="barge-in"))
    await session.say(1, 512, 512)  # the data lane is late
    await session.receive(may_end(1, 1, 1_024))
    await session.say(2, 1_024, 512)
    await session.receive(may_end(2, 1, 1_536))
    assert session.withdrawn == []
    assert len(session.utterance(0).pcm) == 2 * 1_024
    await session.answer("The first.", index=0)
    await session.answer("The second.", index=1)
    assert session.finals() == [(1, 1, "The first."), (2, 1, "The second.")]
    await session.say(1, 1_024, 512)
    assert list(session.stage._turns) == [2]


async def test_a_final_that_is_too_far_behind_is_empty(session):
    for turn in range(1, MAX_TURNS + 2):
        await session.receive(started(turn), ended(turn, 1), Cancel(fence=turn + 1, reason="barge-in"))
    assert session.finals() == [(1, 1, "")]
    [error] = session.port.frames("edge", Error)
    assert "behind" in error.text


async def test_a_final_that_does_not_come_in_time_is_empty(session):
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    await session.port.advance(2_999)
    assert session.finals() == []
    await session.port.advance(1)
    assert session.finals() == session.finals("speaking") == session.finals("edge") == [(1, 1, "")]
    [error] = session.port.frames("edge", Error)
    assert (error.scope, error.retryable, error.turn) == ("turn", True, 1)
    assert "3000 ms" in error.text
    assert session.withdrawn == [session.requests[0].request]
    await session.answer("Late.")
    assert len(session.finals()) == 1


async def test_a_failing_engine_gives_an_empty_final_and_an_error(session):
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    await session.fail()
    assert session.finals() == [(1, 1, "")]
    [error] = session.port.frames("edge", Error)
    assert (error.scope, error.retryable, error.text) == ("turn", True, "speech recognition: no memory")


async def test_a_lost_engine_fails_the_turn_only(session):
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    session.stage.peer_lost("edge")
    await session.port.settle()
    assert session.finals() == []
    session.stage.peer_lost(ENGINE)
    session.stage.peer_lost(ENGINE)  # nor does another one take its place
    await session.port.settle()
    assert session.finals() == [(1, 1, "")]
    assert [error.retryable for error in session.port.frames("edge", Error)] == [True]
    await session.say(2, 512, 512)
    await session.receive(may_end(2, 1, 1_024))
    await session.answer("Back.")
    assert session.finals()[1:] == [(2, 1, "Back.")]


async def test_a_turn_without_audio_is_empty_and_asks_nobody(session):
    await session.receive(started(1), may_end(1, 1, 512))
    assert session.requests == []
    assert session.finals() == [(1, 1, "")]
    assert session.port.frames("edge", Error) == []


async def test_a_turn_that_ended_without_its_may_end_gets_a_final_in_time(session):
    await session.receive(started(1))
    await session.say(1, 0, 512)
    await session.receive(ended(1, 1))
    await session.port.advance(3_000)
    assert session.finals() == [(1, 1, "")]
    assert len(session.port.frames("edge", Error)) == 1


async def test_an_end_that_overtakes_its_may_end_changes_nothing(session):
    await session.receive(started(1))
    await session.say(1, 0, 512)
    await session.receive(ended(1, 1))
    await session.receive(may_end(1, 1, 512))
    await session.answer("Here.")
    await session.port.advance(10_000)
    assert session.finals() == [(1, 1, "Here.")]
    assert session.port.frames("edge", Error) == []


async def test_typed_turns_are_not_heard(session):
    await session.receive(started(1, "text"), ended(1, 1), Pause(turn=1))
    await session.port.advance(10_000)
    assert session.port.sent == []


async def test_a_turn_that_is_over_holds_nothing(session):
    for turn in range(1, 20):
        await session.receive(started(turn))
        await session.say(turn, turn * 1_000, 512)
        await session.receive(may_end(turn, 1, turn * 1_000 + 512))
        if turn % 2:
            await session.receive(ended(turn, 1))
        await session.answer("Yes.")
        await session.receive(ended(turn, 1))
    assert len(session.finals()) == 19
    assert session.stage._turns == {}
    assert session.port.waiting_timers == 0


async def test_turns_that_never_end_are_given_up(session):
    for turn in range(1, 20):
        await session.say(turn, turn * 1_000, 512)
        await session.receive(may_end(turn, 1, 10**6))
    assert len(session.stage._turns) == MAX_TURNS
    assert len(session.withdrawn) == 19 - MAX_TURNS


async def test_the_audio_of_a_turn_is_bounded():
    session = Session(Config().replace(speaking={"max_turn_ms": 100, "pre_roll_ms": 20}))
    await session.say(1, 0, 5_000)
    await session.receive(may_end(1, 1, 5_000))
    assert len(session.utterance().pcm) == 120 * 16 * 2
    await session.port.close()


# --------------------------------------------------------------------------------------------------------------- interims


async def talk(session: Session, turn: int, ms: int, first_sample: int = 0) -> int:
    """In real time; returns the sample behind it."""
    for at in range(first_sample, first_sample + ms * 16, 512):
        await session.port.advance(32)
        await session.say(turn, at, 512)
    return at + 512


def captions(session: Session, role: str = "edge") -> list[tuple[int, int, str]]:
    return [(frame.turn, frame.attempt, frame.text) for frame in session.port.frames(role, Transcript) if not frame.final]


async def test_interims_tell_the_words_while_the_user_talks(session):
    await session.receive(started(1))
    at = await talk(session, 1, 600)
    assert [request.final for request in map(session.utterance, range(len(session.requests)))] == [False]
    assert 500 * 32 <= len(session.utterance().pcm) <= 600 * 32
    await session.answer("Hello.")
    at = await talk(session, 1, 600, at)
    await session.answer("Hello there.")
    assert captions(session) == captions(session, "speaking") == [(1, 0, "Hello"), (1, 0, "Hello there")]
    assert session.port.frames("llm", Transcript) == []
    assert session.port.frames("edge", Metrics) == []


async def test_a_final_withdraws_the_interim_and_the_next_ones_name_the_attempt(session):
    await session.receive(started(1))
    at = await talk(session, 1, 600)
    await session.receive(may_end(1, 1, at))
    assert session.withdrawn == [session.requests[0].request]
    assert session.utterance(1).final
    await session.answer("Too late.", index=0)
    at = await talk(session, 1, 1_000, at)
    assert len(session.requests) == 2
    await session.receive(resumed(1, 1))
    at = await talk(session, 1, 600, at)
    assert not session.utterance().final
    await session.answer("On and on.")
    assert captions(session) == [(1, 1, "On and on")]
    assert session.finals() == []


async def test_an_end_or_a_cancel_withdraws_the_interim(session):
    await session.receive(started(1))
    at = await talk(session, 1, 600)
    await session.receive(ended(1, 1))
    assert len(session.withdrawn) == 1
    await session.receive(started(2))
    await talk(session, 2, 600, at)
    await session.receive(Cancel(fence=3, reason="text"))
    assert len(session.withdrawn) == 2
    assert captions(session) == []


async def test_a_new_turn_has_the_only_interim(session):
    await session.receive(started(1))
    at = await talk(session, 1, 600)
    await session.receive(started(2))
    assert session.withdrawn == [session.requests[0].request]
    at = await talk(session, 1, 2_000, at)
    assert len(session.requests) == 1
    await talk(session, 2, 600, at)
    assert len(session.requests) == 2


async def test_under_the_bot_the_first_interim_comes_sooner(session):
    await session.receive(TurnStarted(turn=1, request="", source="speech", under_bot=True))
    await talk(session, 1, 330)
    assert len(session.requests) == 1


async def test_an_interim_that_fails_is_not_told(session):
    await session.receive(started(1))
    at = await talk(session, 1, 600)
    await session.fail()
    await talk(session, 1, 600, at)
    assert len(session.requests) == 2
    assert session.port.frames("edge", Error) == []


async def test_interims_may_be_switched_off():
    session = Session(Config().replace(stt={"interim_ms": 0}))
    await session.receive(started(1))
    at = await talk(session, 1, 3_000)
    assert session.requests == []
    await session.receive(may_end(1, 1, at))
    await session.answer("Yes.")
    assert session.finals() == [(1, 1, "Yes.")]
    await session.port.close()


def half_minute_with_pause_at(second: int) -> list[tuple[int, bytes]]:
    return [(at, (b"\0\0" if second * 16_000 <= at < second * 16_000 + 8_000 else LOUD)) for at in range(0, 480_000, 512)]


async def speak_long(session: Session, first_sample: int = 0) -> None:
    for at, sample in half_minute_with_pause_at(25):
        session.stage.receive(Audio(turn=1, first_sample=first_sample + at, pcm=sample * 512))
    await session.port.settle()


async def test_a_long_turn_is_decoded_in_parts_while_the_user_talks(session):
    await speak_long(session)
    assert len(session.requests) == 1
    assert session.utterance(0).final, "its text is kept"
    assert 25 <= len(session.utterance(0).pcm) / 32_000 <= 25.5
    await session.answer("It began well...", index=0)
    await session.receive(may_end(1, 1, 480_000))
    assert len(session.utterance(0).pcm) + len(session.utterance(1).pcm) == 480_000 * 2
    await session.answer("and ended well.", index=1)
    assert session.finals() == [(1, 1, "It began well and ended well.")]


async def test_the_final_of_a_long_turn_waits_for_its_parts(session):
    await speak_long(session)
    await session.receive(may_end(1, 1, 480_000))
    await session.answer("The end.", index=1)
    assert session.finals() == []
    await session.receive(resumed(1, 1))
    await session.say(1, 480_000, 512)
    await session.receive(may_end(1, 2, 480_512))
    await session.answer("The real end.", index=2)
    await session.answer("The beginning.", index=0)
    assert session.finals() == [(1, 2, "The beginning. The real end.")]
    assert session.withdrawn == []


async def test_a_part_that_fails_empties_the_final(session):
    await speak_long(session)
    await session.fail(index=0)
    await session.receive(may_end(1, 1, 480_000))
    await session.answer("The end.", index=1)
    assert session.finals() == [(1, 1, "")]
    assert len(session.port.frames("edge", Error)) == 1


async def test_a_part_that_hangs_does_not_outlive_the_deadline(session):
    await speak_long(session)
    await session.receive(may_end(1, 1, 480_000))
    await session.answer("The end.", index=1)
    await session.port.advance(3_000)
    assert session.finals() == [(1, 1, "")]
    await session.receive(ended(1, 1))
    assert session.withdrawn == [session.requests[0].request]
    assert session.stage._turns == {}


async def test_close_leaves_nothing():
    session = Session()
    await session.say(1, 0, 512)
    await session.receive(may_end(1, 1, 512))
    await session.port.close()
    await session.stage.close()
    assert session.port.running == 0
    assert session.port.waiting_timers == 0
    assert session.port.errors == []


steps = st.sampled_from(["audio", "may_end", "resume", "late resume", "answer", "fail", "wait"])


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=25))
async def test_each_attempt_has_one_final_unless_it_was_resumed_over(actions):
    session = Session()
    attempt, at, void, had = 0, 0, set(), 0
    await session.receive(started(1))
    for action in actions:
        if action == "audio":
            await session.say(1, at, 512)
            at += 512
        elif action == "may_end":
            if attempt and attempt not in void:
                void.add(attempt)
                await session.receive(resumed(1, attempt))
            attempt += 1
            await session.receive(may_end(1, attempt, at))
        elif action == "resume" and attempt:
            void.add(attempt)
            await session.receive(resumed(1, attempt))
        elif action == "late resume" and attempt:
            attempt += 1
            void |= {attempt - 1, attempt}
            await session.receive(resumed(1, attempt), may_end(1, attempt, at))
        elif action == "answer" and session.requests:
            await session.answer("word")
        elif action == "fail" and session.requests:
            await session.fail()
        elif action == "wait":
            await session.port.advance(500)
        count = len(session.finals())
        assert not {number for _, number, _ in session.finals()[had:count]} & void, "a void attempt had a final"
        had = count
    await session.port.advance(10_000)
    finals = [number for _, number, _ in session.finals()]
    assert len(finals) == len(set(finals))
    assert {number for number in range(1, attempt + 1) if number not in void} <= set(finals)
    assert finals == sorted(finals)
    assert session.finals() == session.finals("edge") == session.finals("speaking")
    assert session.port.running == 0
    await session.port.close()
    assert session.port.errors == []
