import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.config import Config
from rtvi_actors.frames.types import (
    Attach,
    AudioEnded,
    BotAudio,
    Cancel,
    Clause,
    EngineCancel,
    EngineData,
    EngineEnd,
    EngineRequest,
    Error,
    LlmEnded,
    Marks,
    Metrics,
    Pause,
    Resume,
    SpeechResumed,
)
from rtvi_actors.testing.fakes import FakePort
from rtvi_actors.tts.engine import TtsPiece, TtsRequest
from rtvi_actors.tts.stage import FRAME_BYTES, TtsStages

pytestmark = pytest.mark.unit

ENGINE = "engine/tts"


class Session:
    """A stage with its port, and an engine that answers when the test says so."""

    def __init__(self) -> None:
        self.port = FakePort(roles={"llm", "edge", ENGINE})
        self.stage = TtsStages(Config()).create(self.port, Attach(route={}, bot=""))

    async def receive(self, *frames) -> None:
        for frame in frames:
            self.stage.receive(frame)
        await self.port.settle()

    @property
    def requests(self) -> list[EngineRequest]:
        return self.port.frames(ENGINE, EngineRequest)

    @property
    def texts(self) -> list[str]:
        return [msgspec.msgpack.decode(request.payload, type=TtsRequest).text for request in self.requests]

    @property
    def withdrawn(self) -> list[int]:
        return [frame.request for frame in self.port.frames(ENGINE, EngineCancel)]

    async def piece(self, pcm: bytes, index: int = -1, compute_ns: int = 7_000_000, marks=()) -> None:
        payload = msgspec.msgpack.encode(TtsPiece(pcm=pcm, compute_ns=compute_ns, marks=list(marks)))
        await self.receive(EngineData(request=self.requests[index].request, payload=payload, compute_ns=compute_ns))

    async def end(self, index: int = -1, error: str = "") -> None:
        request = self.requests[index].request
        await self.receive(EngineEnd(request=request, compute_ns=0, queue_ns=0, error=error, retryable=bool(error)))

    @property
    def audio(self) -> list[BotAudio]:
        return self.port.frames("edge", BotAudio)

    @property
    def ends(self) -> list[tuple[int, int, int]]:
        return [(frame.turn, frame.clause, frame.samples) for frame in self.port.frames("edge", AudioEnded)]

    def metrics(self) -> list[tuple[int, str, float]]:
        return [(frame.turn, frame.name, frame.value) for frame in self.port.frames("edge", Metrics)]


@pytest.fixture
async def session():
    session = Session()
    yield session
    await session.port.close()
    await session.stage.close()
    assert session.port.errors == []


def clause(turn: int, number: int, text: str = "Hello.", attempt: int = 1, spoken: bool = True) -> Clause:
    return Clause(turn=turn, attempt=attempt, clause=number, text=text, spoken=spoken)


def pcm(samples: int, start: int = 0) -> bytes:
    return b"".join(((start + at) % 30_000).to_bytes(2, "little") for at in range(samples))


async def test_a_clause_becomes_frames_of_40_ms_across_the_engines_pieces(session):
    await session.receive(clause(1, 0, "Good evening."))
    assert session.texts == ["Good evening."]
    await session.piece(pcm(1_000))
    assert [len(frame.pcm) for frame in session.audio] == [FRAME_BYTES], "40 ms leave as soon as they are there"
    await session.piece(pcm(930, 1_000))
    await session.end()
    assert [(f.turn, f.attempt, f.clause, f.first_sample, len(f.pcm) // 2) for f in session.audio] == [
        (1, 1, 0, 0, 960),
        (1, 1, 0, 960, 960),
        (1, 1, 0, 1_920, 10),
    ]
    assert b"".join(frame.pcm for frame in session.audio) == pcm(1_930)
    assert session.port.frames("edge", BotAudio, AudioEnded)[-1] == AudioEnded(turn=1, attempt=1, clause=0, samples=1_930)


async def test_clauses_are_asked_for_one_after_the_other_and_granted_when_handed_over(session):
    await session.receive(clause(1, 0, "Käse?"), clause(1, 1, "Two."))
    assert session.texts == ["Käse?"]
    await session.piece(pcm(960))
    assert session.port.granted == []
    await session.end()
    assert session.port.granted == [("llm", "clause", 6)]
    assert session.texts == ["Käse?", "Two."]
    await session.piece(pcm(960))
    await session.end()
    assert session.ends == [(1, 0, 960), (1, 1, 960)]
    assert session.port.granted_bytes("clause") == 10
    assert session.withdrawn == []


async def test_the_first_audio_of_a_turn_has_figures(session):
    await session.receive(clause(1, 0, "Hello."), clause(1, 1, "Bye."))
    await session.port.advance(80)
    await session.piece(pcm(960), compute_ns=60_000_000)
    assert session.metrics() == [(1, "ttfb_ms", 80.0), (1, "compute_ms", 60.0)]
    await session.port.advance(20)
    await session.end()
    assert session.metrics()[2:] == [(1, "processing_ms", 100.0), (1, "characters", 6.0)]
    await session.piece(pcm(960))
    await session.end()
    assert [name for _, name, _ in session.metrics()[4:]] == ["processing_ms", "characters"]
    await session.receive(clause(2, 0))
    await session.piece(pcm(960))
    assert [name for turn, name, _ in session.metrics() if turn == 2] == ["ttfb_ms", "compute_ms"]


async def test_audio_waits_for_credit_and_nothing_else_is_asked_for(session):
    await session.port.limit("bot_audio", 2 * FRAME_BYTES)
    await session.receive(clause(1, 0), clause(1, 1))
    await session.receive(Pause(turn=1))
    await session.piece(pcm(5 * 960))
    await session.end()
    assert len(session.audio) == 2
    assert session.ends == []
    assert len(session.requests) == 1
    assert session.port.granted == []
    await session.receive(Resume(turn=1))
    await session.port.limit("bot_audio", 10 * FRAME_BYTES)
    await session.port.settle()
    assert [frame.first_sample for frame in session.audio] == [0, 960, 1_920, 2_880, 3_840]
    assert session.ends == [(1, 0, 4_800)]
    assert len(session.requests) == 2


async def test_cancel_stops_the_running_clause_and_drops_those_that_wait(session):
    await session.port.limit("bot_audio", FRAME_BYTES)
    await session.receive(clause(1, 0, "One."), clause(1, 1, "Two."), clause(2, 0, "Three."))
    await session.piece(pcm(5 * 960))
    await session.receive(Cancel(fence=2, reason="barge-in"))
    await session.port.limit("bot_audio", 100 * FRAME_BYTES)
    await session.port.settle()
    assert session.withdrawn == [session.requests[0].request]
    assert len(session.audio) == 1
    assert session.port.granted_bytes("clause") == len("One.Two.")
    assert session.texts == ["One.", "Three."]
    await session.receive(clause(1, 2, "Late."))
    assert session.texts == ["One.", "Three."]
    assert session.port.granted_bytes("clause") == len("One.Two.Late.")
    await session.piece(pcm(960))
    await session.end()
    assert session.ends == [(2, 0, 960)]


async def test_speech_that_resumes_voids_its_attempts(session):
    await session.receive(clause(1, 0, "Speculative.", attempt=2), clause(1, 1, "Too.", attempt=2))
    await session.receive(SpeechResumed(turn=1, attempt=2))
    assert session.withdrawn == [session.requests[0].request]
    assert session.port.granted_bytes("clause") == len("Speculative.Too.")
    await session.receive(clause(1, 2, "Late.", attempt=2), clause(1, 0, "Right.", attempt=3))
    assert session.texts == ["Speculative.", "Right."]
    await session.piece(pcm(960))
    await session.end()
    assert [(frame.attempt, frame.clause) for frame in session.audio] == [(3, 0)]


async def test_a_clause_of_a_higher_attempt_voids_the_lower_ones(session):
    await session.receive(clause(1, 0, "Old."), clause(1, 1, "Older."))
    await session.piece(pcm(960))
    await session.receive(clause(1, 0, "New.", attempt=2))
    assert session.texts == ["Old.", "New."]
    assert session.port.granted_bytes("clause") == len("Old.Older.")
    await session.receive(clause(1, 2, "Late."))
    await session.piece(pcm(960))
    await session.end()
    assert [(frame.attempt, frame.clause) for frame in session.audio] == [(1, 0), (2, 0)]
    assert session.port.granted_bytes("clause") == len("Old.Older.Late.New.")


async def test_a_clause_that_fails_is_told_and_the_next_is_spoken(session):
    await session.receive(clause(1, 0), clause(1, 1))
    await session.piece(pcm(1_500))
    await session.end(error="no memory")
    [error] = session.port.frames("edge", Error)
    assert (error.turn, error.scope, error.retryable, error.text) == (1, "turn", True, "speech synthesis: no memory")
    assert session.ends == [(1, 0, 960)], "what was sent counts"
    await session.end(error="no memory")
    assert session.ends == [(1, 0, 960), (1, 1, 0)]
    assert session.port.granted_bytes("clause") == 12


async def test_whatever_goes_wrong_in_a_clause_the_next_is_spoken(session, monkeypatch):
    async def broken(*_):
        raise KeyError("bot_audio")

    await session.receive(clause(1, 0), clause(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(session.port, "send_credited", broken)
        await session.piece(pcm(960))
    assert session.ends == [(1, 0, 0)]
    assert [error.text for error in session.port.frames("edge", Error)] == ["speech synthesis: KeyError: 'bot_audio'"]
    await session.piece(pcm(960))
    await session.end()
    assert session.ends == [(1, 0, 0), (1, 1, 960)]


async def test_a_lost_engine_fails_the_clause(session):
    await session.receive(clause(1, 0))
    session.stage.peer_lost(ENGINE)
    session.stage.peer_lost(ENGINE)  # nor does another one take its place
    await session.port.settle()
    assert session.ends == [(1, 0, 0)]
    assert [error.retryable for error in session.port.frames("edge", Error)] == [True]


async def test_clauses_without_sound(session):
    await session.receive(
        clause(1, 0, "Shown only.", spoken=False),
        clause(1, 1, " \n"),
        clause(1, 2, "🙂"),
        LlmEnded(turn=1, attempt=1, clauses=3, reason="stop"),
    )
    await session.end()
    assert session.texts == ["🙂"]
    assert session.audio == []
    assert session.ends == [(1, 1, 0), (1, 2, 0)]
    assert session.port.granted_bytes("clause") == len("Shown only.") + 2 + 4


async def test_marks_come_before_the_audio_that_they_tell_of(session):
    await session.receive(clause(1, 0))
    await session.piece(pcm(960), marks=[(0, 0), (500, 3)])
    await session.end()
    frames = session.port.frames("edge", BotAudio, Marks, AudioEnded)
    assert [type(frame) for frame in frames] == [Marks, BotAudio, AudioEnded]
    assert frames[0].marks == [[0, 0], [500, 3]]
    # The figures travel on another lane. Written first, they are there before the edge closes the account of the turn.
    kinds = [type(frame) for frame in session.port.frames("edge", Metrics, Marks, BotAudio)]
    assert kinds[:4] == [Metrics, Metrics, Marks, BotAudio]


async def test_close_leaves_nothing():
    session = Session()
    await session.receive(clause(1, 0), clause(1, 1))
    await session.piece(pcm(960))
    await session.port.close()
    await session.stage.close()
    assert session.port.running == 0
    assert session.port.errors == []
    assert len(session.requests) == 1


steps = st.sampled_from(["clause", "piece", "end", "fail", "resume", "cancel"])


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=30))
async def test_every_clause_is_granted_once_and_nothing_void_is_sent(actions):
    session = Session()
    turn, attempt, number, given, fence = 1, 1, 0, 0, 0
    void: set[tuple[int, int]] = set()
    for action in actions:
        before = len(session.audio)
        if action == "clause":
            await session.receive(clause(turn, number, "word", attempt=attempt))
            number, given = number + 1, given + 4
        elif action == "piece" and session.requests:
            await session.piece(pcm(1_000))
        elif action in ("end", "fail") and session.requests:
            await session.end(error="" if action == "end" else "failed")
        elif action == "resume":
            await session.receive(SpeechResumed(turn=turn, attempt=attempt))
            void.add((turn, attempt))
            attempt, number = attempt + 1, 0
        elif action == "cancel":
            void.add((turn, attempt))
            turn, attempt, number = turn + 1, 1, 0
            fence = turn
            await session.receive(Cancel(fence=fence, reason="barge-in"))
        for frame in session.audio[before:]:
            assert (frame.turn, frame.attempt) not in void
            assert frame.turn >= fence
    while session.stage._running is not None:
        await session.end()
    assert session.port.granted_bytes("clause") == given
    assert session.port.running == 0
    ends = [(f.turn, f.attempt, f.clause) for f in session.port.frames("edge", AudioEnded)]
    assert ends == sorted(set(ends))
    await session.port.close()
    assert session.port.errors == []


async def test_the_voice_is_told_how_long_what_was_said_before_goes_on_playing():
    session = Session()
    await session.receive(Clause(turn=1, attempt=1, clause=0, text="One."), Clause(turn=1, attempt=1, clause=1, text="Two."))
    await session.piece(bytes(20 * FRAME_BYTES))  # 800 ms
    await session.port.advance(300)
    await session.end()
    await session.receive(Clause(turn=2, attempt=1, clause=0, text="Another answer."))
    await session.end()
    asked = [msgspec.msgpack.decode(request.payload, type=TtsRequest) for request in session.requests]
    assert [(request.text, request.reserve_ms) for request in asked] == [("One.", 0), ("Two.", 500), ("Another answer.", 0)]
