"""The LLM stage: frames in, frames out, with an engine that answers when the test says so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import pytest

from rtvi_actors.bot import Bot, BotClass, Session, Turn
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, EngineError, SessionClosedError
from rtvi_actors.frames import snapshot
from rtvi_actors.frames.snapshot import Said, Snapshot
from rtvi_actors.frames.types import (
    Attach,
    Cancel,
    Clause,
    ClientMessage,
    ClientText,
    EngineCancel,
    EngineData,
    EngineEnd,
    EngineRequest,
    Error,
    Frame,
    LlmEnded,
    LlmStarted,
    LlmText,
    Metrics,
    Moved,
    Played,
    Remembered,
    SessionEnd,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnRequest,
    TurnStarted,
)
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.llm.stage import NEW, LlmStage, LlmStages
from rtvi_actors.testing.fakes import FakePort

pytestmark = pytest.mark.unit

ENGINE = "engine/llm"


def started(turn: int, source: str = "speech", request: str = "", under_bot: bool = False) -> TurnStarted:
    return TurnStarted(turn=turn, request=request, source=source, under_bot=under_bot)


def words(turn: int, text: str = "Hello.", attempt: int = 1) -> Transcript:
    return Transcript(turn=turn, attempt=attempt, text=text, final=True, language="en")


def ended(turn: int, attempt: int = 1) -> TurnEnded:
    return TurnEnded(turn=turn, attempt=attempt, last_sample=0)


def played(turn: int, clause: int, char: int) -> Played:
    return Played(turn=turn, clause=clause, char=char, final=True)


READY = ClientMessage(id="1", type="client-ready", data=b"{}")


class Conversation:
    """A stage with its port."""

    def __init__(self, bot: type[Bot] = Bot, earlier: Snapshot = NEW, **llm: Any) -> None:
        self.port = FakePort(roles={"speaking", "tts", "edge", ENGINE})
        config = Config().replace(llm=llm) if llm else Config()
        self.stage = LlmStage(self.port, config, BotClass(bot), earlier=earlier)

    async def receive(self, *frames: Frame) -> None:
        for frame in frames:
            self.stage.receive(frame)
        await self.port.settle()

    @property
    def requests(self) -> list[LlmRequest]:
        frames = self.port.frames(ENGINE, EngineRequest)
        return [msgspec.msgpack.decode(frame.payload, type=LlmRequest) for frame in frames]  # type: ignore[attr-defined]

    @property
    def withdrawn(self) -> list[int]:
        return [frame.request for frame in self.port.frames(ENGINE, EngineCancel)]  # type: ignore[attr-defined]

    def prompt(self, number: int = -1) -> list[tuple[str, str]]:
        """The messages of a request, without the instructions."""
        return [(message.role, message.content) for message in self.requests[number].messages[1:]]

    async def answer(self, *texts: str, request: int = 0, end: bool = True) -> None:
        """The engine gives ``texts``, one piece each, to its newest request."""
        number = request or len(self.requests)
        for count, text in enumerate(texts, start=1):
            reason = "stop" if end and count == len(texts) else ""
            piece = LlmPiece(text, compute_ns=count * 1_000_000, finish_reason=reason, prompt_tokens=9, completion_tokens=count)
            self.stage.receive(EngineData(request=number, payload=msgspec.msgpack.encode(piece), compute_ns=0))
        if end:
            self.stage.receive(EngineEnd(request=number, compute_ns=0, queue_ns=0, error="", retryable=False))
        await self.port.settle()

    def told(self, *kinds: type[Frame]) -> list[Any]:
        return self.port.frames("edge", *(kinds or (LlmStarted, LlmText, Clause, LlmEnded)))

    async def until(self, done: Any) -> None:
        """Wait for what the bot's thread does."""
        deadline = time.monotonic() + 5
        while not done():
            assert time.monotonic() < deadline, "it did not come"
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        await self.port.close()
        await self.stage.close()


def text_of(frames: list[Any]) -> str:
    return "".join(frame.text for frame in frames if isinstance(frame, LlmText))


async def test_a_turn_from_words_to_clauses() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1, "Where is Paris?"))
    assert talk.prompt() == [("user", "Where is Paris?")]
    await talk.answer("Paris is in", " France. It", " lies on the Seine.\n")
    await talk.receive(ended(1))
    told = talk.told()
    assert told[0] == LlmStarted(turn=1, attempt=1, user_text="Where is Paris?")
    assert told[-1] == LlmEnded(turn=1, attempt=1, clauses=2, reason="stop")
    clauses = [frame for frame in told if isinstance(frame, Clause)]
    assert [clause.text for clause in clauses] == ["Paris is in France. ", "It lies on the Seine."]
    assert text_of(told) == "".join(clause.text for clause in clauses)
    # a clause leaves as soon as it is cut: before the text that comes after it
    assert told.index(clauses[0]) < [at for at, frame in enumerate(told) if isinstance(frame, LlmText)][-1]
    assert talk.port.frames("tts") == [*clauses, told[-1]]
    figures = {frame.name: frame.value for frame in talk.told(Metrics)}
    assert figures["compute_ms"] == 2.0
    assert figures["prompt_tokens"] == 9
    assert figures["completion_tokens"] == 3
    assert {"ttfb_ms", "processing_ms"} <= set(figures)
    assert len(talk.requests) == 1
    await talk.close()
    assert talk.port.errors == []


async def test_nothing_is_remembered_before_the_commit_and_before_it_was_heard() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1))
    await talk.answer("Hi there.")
    assert talk.stage.context.history == ()
    await talk.receive(ended(1))
    assert [message.text for message in talk.stage.context.history] == ["Hello."]
    await talk.receive(played(1, 0, 9))
    assert [(message.text, message.interrupted) for message in talk.stage.context.history] == [
        ("Hello.", False),
        ("Hi there.", False),
    ]
    await talk.receive(started(2), words(2, "And now?"))
    assert talk.prompt() == [("user", "Hello."), ("assistant", "Hi there."), ("user", "And now?")]
    await talk.close()


async def test_speech_that_goes_on_withdraws_the_request() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1, "I want"))
    await talk.answer("You", end=False)
    await talk.receive(SpeechResumed(turn=1, attempt=1), words(1, "I want tea.", attempt=2), ended(1, attempt=2))
    assert talk.withdrawn == [1]
    assert talk.prompt() == [("user", "I want tea.")]
    await talk.answer(" want.", request=1)
    await talk.answer("Here you are.", request=2)
    assert [(frame.attempt, frame.text) for frame in talk.told(LlmText)] == [(1, "You"), (2, "Here you are.")]
    assert [frame.attempt for frame in talk.told(LlmEnded)] == [2]
    await talk.close()


async def test_without_speculation_the_model_waits_for_the_commit() -> None:
    talk = Conversation(speculate=False)
    await talk.receive(started(1), words(1))
    assert talk.requests == []
    await talk.receive(ended(1))
    assert len(talk.requests) == 1
    await talk.close()


async def test_an_interruption_keeps_what_was_heard() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1, "Tell me a story."), ended(1))
    await talk.answer("Once upon a time, there was", " a king. He", end=False)
    await talk.receive(started(2, under_bot=True), words(2, "Stop."))
    assert len(talk.requests) == 1
    await talk.receive(Cancel(fence=2, reason="speech"))
    assert talk.withdrawn == [1]
    assert len(talk.requests) == 1
    await talk.answer(" lived.", request=1)
    await talk.receive(played(1, 0, 9), ended(2))
    assert talk.prompt() == [("user", "Tell me a story."), ("assistant", "Once upon..."), ("user", "Stop.")]
    assert talk.stage.context.history[1].interrupted
    assert all(frame.turn == 1 for frame in talk.told(LlmText))
    assert talk.told(LlmEnded) == []
    await talk.close()


async def test_after_a_cancel_it_waits_100_ms_at_most() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1, "One."), ended(1))
    await talk.answer("Once", end=False)
    await talk.receive(started(2, under_bot=True), words(2, "Two."), Cancel(fence=2, reason="speech"), ended(2))
    await talk.port.advance(99)
    assert len(talk.requests) == 1
    await talk.port.advance(1)
    assert talk.prompt() == [("user", "One.\nTwo.")]
    await talk.close()


async def test_typed_text_as_text_only() -> None:
    talk = Conversation()
    await talk.receive(ClientText(request="r", text="Hi.", run=True, audio=False), started(1, "text", "r"))
    await talk.answer("Hello to you.")
    assert [(clause.text, clause.spoken) for clause in talk.told(Clause)] == [("Hello to you.", False)]
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=1, reason="stop")]
    assert talk.port.frames("tts") == []
    await talk.close()


async def test_typed_text_that_is_only_remembered() -> None:
    talk = Conversation()
    await talk.receive(ClientText(request="", text="I am on page two.", run=False, audio=True))
    assert talk.requests == []
    await talk.receive(started(1), words(1, "What is here?"))
    assert talk.prompt() == [("user", "I am on page two.\nWhat is here?")]
    await talk.close()


async def test_empty_typed_text_ends_its_turn() -> None:
    talk = Conversation()
    await talk.receive(ClientText(request="r", text=" ", run=True, audio=True), started(1, "text", "r"))
    assert talk.requests == []
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=0, reason="stop")]
    await talk.close()


async def test_a_long_typed_text_is_cut_in_its_middle() -> None:
    talk = Conversation()
    await talk.receive(ClientText(request="r", text="word " * 10_000, run=True, audio=True), started(1, "text", "r"))
    ((_, text),) = talk.prompt()
    assert len(text) < 13_000
    await talk.close()


@pytest.mark.parametrize("committed_first", [True, False])
async def test_an_engine_error_ends_the_answer_with_the_clauses_so_far(committed_first: bool) -> None:
    talk = Conversation()
    frames = [started(1), words(1), ended(1)]
    await talk.receive(*(frames if committed_first else frames[:2]))
    await talk.answer("All of this, and", " more", end=False)
    talk.stage.receive(EngineEnd(request=1, compute_ns=0, queue_ns=0, error="out of memory", retryable=False))
    await talk.port.settle()
    if not committed_first:
        # an answer on trial tells nobody of its errors
        assert talk.told(Error) == []
        await talk.receive(ended(1))
    (error,) = talk.told(Error)
    assert (error.turn, error.scope, error.text) == (1, "turn", "the language model failed: out of memory")
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=1, reason="error")]
    await talk.close()


async def test_a_lost_engine_ends_the_answer() -> None:
    talk = Conversation()
    await talk.receive(started(1), words(1), ended(1))
    talk.stage.peer_lost(ENGINE)
    talk.stage.peer_lost(ENGINE)  # nor does another one take its place
    await talk.port.settle()
    assert [frame.reason for frame in talk.told(LlmEnded)] == ["error"]
    assert talk.told(Error)[0].retryable
    await talk.close()


async def test_it_waits_for_room_at_the_tts_stage() -> None:
    talk = Conversation()
    await talk.port.limit("clause", 0)
    await talk.receive(started(1), words(1), ended(1))
    await talk.answer("Of course, I will. And more.")
    assert [clause.text for clause in talk.told(Clause)] == ["Of course, "]
    assert talk.port.frames("tts") == []
    await talk.port.limit("clause", 4_096)
    await talk.port.settle()
    assert [clause.text for clause in talk.port.frames("tts", Clause)] == ["Of course, ", "I will. ", "And more."]  # type: ignore[attr-defined]
    await talk.close()


async def test_settings_of_the_session_and_of_the_configuration() -> None:
    stages = LlmStages(Config().replace(bot={"instructions": "Be a pirate."}))
    attach = Attach(route={}, bot="", services={"llm": {"max_tokens": 7}})
    talk = Conversation()
    talk.stage = stages.create(talk.port, attach)
    await talk.receive(started(1), words(1), ended(1))
    assert talk.requests[0].max_tokens == 7
    assert talk.requests[0].messages[0].content == "Be a pirate."
    with pytest.raises(ConfigError, match="max_tokens"):
        stages.create(talk.port, Attach(route={}, bot="", services={"llm": {"max_tokens": -1}}))
    stages.close()
    await talk.close()


async def test_a_bot_that_was_asked_for_and_what_it_was_given() -> None:
    config = Config().replace(bot={"instructions": "Be a pirate."}, bots={"clerk": f"{__file__}:Clerk"})
    stages = LlmStages(config)
    talk = Conversation()
    talk.stage = stages.create(talk.port, Attach(route={}, bot=config.bots["clerk"], body=b'{"name": "Ada"}'))
    await talk.stage.open()
    await talk.receive(READY)
    await talk.until(lambda: talk.port.frames("speaking", TurnRequest))
    await talk.receive(started(1, "say", "say-1"))
    assert "".join(clause.text for clause in talk.told(Clause)) == "Good evening, Ada."
    assert talk.stage.context.messages(2, "")[0].content == "Be a clerk."
    await talk.close()


@pytest.mark.parametrize("section", [{"bot": {"class": "no_such_module:Bot"}}, {"bots": {"other": "no_such_module:Bot"}}])
def test_no_process_starts_with_a_bot_that_cannot_be_loaded(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        LlmStages(Config().replace(**section))


def test_a_bot_that_cannot_be_loaded() -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        LlmStages(Config().replace(bot={"class": "no_such_module:Bot"}))


# ------------------------------------------------------------------------------------------------------------ the bot


class Clerk(Bot):
    instructions = "Be a clerk."

    async def on_start(self, session: Session) -> None:
        await session.say(f"Good evening, {session.body['name']}.")


class Closer(Bot):
    """Ends the session: in a turn before it answers, or at the start behind what it says."""

    async def on_start(self, session: Session) -> None:
        if session.body:
            await session.say("We are closed.")
            session.end("closed")

    async def on_turn(self, session: Session, turn: Turn) -> str:
        session.end()
        return "Goodbye."


async def test_the_end_names_the_turn_that_is_being_answered() -> None:
    talk = await answered_by(Closer, "bye")
    await talk.until(lambda: talk.told(SessionEnd))
    assert talk.told(SessionEnd) == [SessionEnd(turn=1, reason="")]
    assert text_of(talk.told()) == "Goodbye."
    with pytest.raises(SessionClosedError, match="is ending"):
        await asyncio.wrap_future(talk.stage.say("One more thing."))
    await talk.close()
    talk.stage.end("too late")
    assert len(talk.told(SessionEnd)) == 1


async def test_the_end_comes_behind_what_is_said() -> None:
    talk = Conversation()
    talk.stage = LlmStage(talk.port, Config(), BotClass(Closer), body={"late": True})
    await talk.stage.open()
    await talk.receive(READY)
    await talk.until(lambda: talk.port.frames("speaking", TurnRequest))
    await talk.receive(started(1, "say", "say-1"))
    assert talk.told(SessionEnd) == []
    await talk.receive(played(1, 0, 14))
    await talk.until(lambda: talk.told(SessionEnd))
    assert talk.told(SessionEnd) == [SessionEnd(turn=1, reason="closed")]
    await talk.close()


async def test_an_idle_prompt_is_said() -> None:
    talk = Conversation()
    await talk.stage.open()
    await talk.receive(ClientMessage(id="", type="idle-prompt", data=b'{"text": "Still there?"}'))
    await talk.receive(started(1, "say", "say-1"))
    assert [clause.text for clause in talk.told(Clause)] == ["Still there?"]
    await talk.receive(played(1, 0, 12), started(2), words(2, "Yes."))
    assert talk.prompt() == [("assistant", "Still there?"), ("user", "Yes.")]
    await talk.close()


async def test_typed_texts_that_are_lost_are_told() -> None:
    talk = Conversation()
    await talk.receive(*(ClientText(request=f"text-{n}", text=f"text {n}", run=True, audio=True) for n in range(34)))
    errors = talk.told(Error)
    assert [error.text[-8:-1] for error in errors] == ["'text 0", "'text 1"]
    assert {error.scope for error in errors} == {"turn"}
    await talk.close()


class Greeter(Bot):
    log: list[str]

    def __init__(self) -> None:
        self.log = []
        Greeter.last = self

    last: Greeter

    async def on_start(self, session: Session) -> None:
        await session.say("Good evening. How can I help?")
        self.log.append("said")

    async def on_end(self, session: Session) -> None:
        try:
            await session.say("Goodbye.")
        except SessionClosedError:
            self.log.append("ended")


async def test_a_greeting() -> None:
    talk = Conversation(Greeter)
    await talk.stage.open()
    await talk.receive(READY, READY)
    await talk.until(lambda: talk.port.frames("speaking", TurnRequest))
    (request,) = talk.port.frames("speaking", TurnRequest)
    assert (request.source, request.interrupt) == ("say", False)  # type: ignore[attr-defined]
    await talk.receive(started(1, "say", request.request))  # type: ignore[attr-defined]
    assert talk.told()[0] == LlmStarted(turn=1, attempt=1, user_text="")
    assert [clause.text for clause in talk.told(Clause)] == ["Good evening. ", "How can I help?"]
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=2, reason="say")]
    assert talk.told(Metrics) == []
    assert Greeter.last.log == []
    await talk.receive(played(1, 1, 15))
    await talk.until(lambda: Greeter.last.log == ["said"])
    await talk.receive(started(2), words(2, "Hi."))
    assert talk.prompt() == [("assistant", "Good evening. How can I help?"), ("user", "Hi.")]
    await talk.close()
    assert Greeter.last.log == ["said", "ended"]
    assert len(talk.port.frames("speaking", TurnRequest)) == 1


async def test_an_interrupted_greeting_returns_too() -> None:
    talk = Conversation(Greeter)
    await talk.stage.open()
    await talk.receive(READY)
    await talk.until(lambda: talk.port.frames("speaking", TurnRequest))
    await talk.receive(started(1, "say", "say-1"), Cancel(fence=2, reason="speech"))
    await talk.until(lambda: Greeter.last.log == ["said"])
    await talk.close()


@pytest.mark.parametrize(("whole", "kept"), [(False, "One..."), (True, "One two. Three.")])
@pytest.mark.parametrize("heard", [0, 3])
async def test_a_text_may_be_kept_whole_though_it_was_interrupted(whole: bool, kept: str, heard: int) -> None:
    talk = Conversation()
    await talk.stage.open()
    talk.stage.say("One two. Three.", whole=whole)
    await talk.until(lambda: talk.port.frames("speaking", TurnRequest))
    await talk.receive(started(1, "say", "say-1"))
    await talk.receive(Cancel(fence=2, reason="speech"), played(1, 0, heard), started(2), words(2, "Hi."))
    expected = [("assistant", kept)] if whole or heard else []
    assert talk.prompt() == [*expected, ("user", "Hi.")]
    await talk.close()


async def test_inside_on_turn_nothing_is_kept_whole() -> None:
    talk = await answered_by(Parrot, "whole")
    assert (
        text_of(talk.told())
        == "commit='full' is for a text of its own; inside on_turn it is part of an answer, kept as it was heard"
    )
    await talk.close()


async def test_what_waits_to_be_said_fails_at_the_end() -> None:
    talk = Conversation(Greeter)
    await talk.stage.open()
    future = talk.stage.say("Anything.")
    await talk.port.settle()
    await talk.close()
    with pytest.raises(SessionClosedError):
        future.result(timeout=1)
    with pytest.raises(SessionClosedError):
        talk.stage.say("More.").result(timeout=1)


class Parrot(Bot):
    async def on_turn(self, session: Session, turn: Turn) -> str | AsyncIterator[str] | None:
        match turn.text:
            case "pieces":
                return self.pieces()
            case "model":
                await session.say("One moment.")
                return None
            case "whole":
                try:
                    await session.say("All of it.", commit="full")
                except ValueError as error:
                    return str(error)
            case "fail":
                raise KeyError("room")
            case "number":
                return 7  # type: ignore[return-value]
            case "hang":
                await asyncio.sleep(60)
        return f"You said: {turn.text}, by {turn.source}."

    async def pieces(self) -> AsyncIterator[str]:
        for piece in ("one, ", "two, ", "three."):
            yield piece


async def answered_by(bot: type[Bot], text: str, **llm: Any) -> Conversation:
    talk = Conversation(bot, **llm)
    await talk.stage.open()
    await talk.receive(started(1), words(1, text))
    assert talk.told() == []
    await talk.receive(ended(1))
    await talk.until(lambda: talk.told(LlmEnded) or talk.requests)
    return talk


async def test_on_turn_answers_with_a_text() -> None:
    talk = await answered_by(Parrot, "yes")
    assert text_of(talk.told()) == "You said: yes, by speech."
    assert talk.requests == []
    assert {frame.name for frame in talk.told(Metrics)} == {"ttfb_ms", "compute_ms", "processing_ms"}
    await talk.close()


async def test_on_turn_answers_in_pieces() -> None:
    talk = await answered_by(Parrot, "pieces")
    assert [frame.text for frame in talk.told(LlmText)] == ["one,", " two,", " three."]
    await talk.close()


async def test_on_turn_lets_the_model_answer_after_it_said_something() -> None:
    talk = await answered_by(Parrot, "model")
    await talk.answer("It is here.")
    assert text_of(talk.told()) == "One moment. It is here."
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=2, reason="stop")]
    await talk.close()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("fail", "on_turn of Parrot failed: KeyError: 'room'"),
        ("number", "on_turn of Parrot failed: TypeError: it gives a str, an async iterator of str, or None, not int"),
        ("hang", "on_turn of Parrot gave nothing for 30 ms"),
    ],
)
async def test_a_hook_that_fails(text: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    talk = await answered_by(Parrot, text, timeout_ms=30)
    assert [(frame.turn, frame.scope, frame.text) for frame in talk.told(Error)] == [(1, "turn", line)]
    assert talk.told(LlmEnded) == [LlmEnded(turn=1, attempt=1, clauses=0, reason="error")]
    if text != "hang":
        assert "Traceback" in caplog.text
    await talk.close()


class Blocker(Bot):
    """Blocks its own thread, as an application should not."""

    async def on_turn(self, session: Session, turn: Turn) -> str:
        time.sleep(0.1)  # noqa: ASYNC251 - that is what is tested
        return "Done at last."


async def test_a_hook_that_blocks_does_not_block_the_stage() -> None:
    talk = Conversation(Blocker)
    await talk.stage.open()
    await talk.receive(started(1), words(1, "x"), ended(1))
    ticks = 0
    while not talk.told(LlmEnded):
        ticks += 1
        assert ticks < 5_000
        await asyncio.sleep(0.001)
    assert ticks > 10
    assert text_of(talk.told()) == "Done at last."
    await talk.close()


class Plain(Bot):
    def on_turn(self, session: Session, turn: Turn) -> str:  # type: ignore[override]
        return "From a plain function."


async def test_a_plain_function_as_a_hook() -> None:
    talk = await answered_by(Plain, "x")
    assert text_of(talk.told()) == "From a plain function."
    await talk.close()


class Endless(Bot):
    stopped: ClassVar[list[str]] = []

    async def on_turn(self, session: Session, turn: Turn) -> AsyncIterator[str]:  # type: ignore[override]
        try:
            while True:
                yield "and on "
        finally:
            self.stopped.append(turn.text)


async def test_an_interruption_cancels_the_hook() -> None:
    Endless.stopped.clear()
    talk = Conversation(Endless)
    await talk.stage.open()
    await talk.receive(started(1), words(1, "go"), ended(1))
    await talk.until(lambda: len(talk.told(LlmText)) > 20)
    await talk.receive(Cancel(fence=2, reason="speech"))
    told = len(talk.told())
    await talk.until(lambda: Endless.stopped == ["go"])
    await talk.port.settle()
    assert len(talk.told()) == told
    await talk.close()


class Broken(Bot):
    def __init__(self) -> None:
        raise ValueError("no database")

    async def on_start(self, session: Session) -> None: ...


async def test_a_bot_that_cannot_be_made() -> None:
    talk = Conversation(Broken)
    with pytest.raises(EngineError, match="__init__ of Broken failed: ValueError: no database"):
        await talk.stage.open()
    await talk.close()


class BadStart(Bot):
    async def on_start(self, session: Session) -> None:
        raise RuntimeError("first line\nsecond line")


async def test_on_start_that_fails_is_told() -> None:
    talk = Conversation(BadStart)
    await talk.stage.open()
    await talk.receive(READY)
    await talk.until(lambda: talk.told(Error))
    assert [frame.text for frame in talk.told(Error)] == ["on_start of BadStart failed: RuntimeError: first line"]
    await talk.close()


async def test_a_test_may_replace_the_conversation_and_nothing_runs() -> None:
    talk = Conversation()
    data = {"messages": [["system", "Be rude."], ["user", "I am Ann."], ["assistant", "Hello Ann."]]}
    await talk.receive(ClientMessage(id="1", type="eval-context", data=json.dumps(data).encode()))
    assert talk.requests == []
    await talk.receive(started(1), words(1, "Who am I?"), ended(1))
    assert [(message.role, message.content) for message in talk.requests[0].messages] == [
        ("system", "Be rude."),
        ("user", "I am Ann."),
        ("assistant", "Hello Ann."),
        ("user", "Who am I?"),
    ]
    await talk.close()


async def test_a_test_may_silence_the_bot() -> None:
    talk = Conversation()
    await talk.receive(ClientMessage(id="1", type="eval-connect", data=b'{"skip_tts": true}'))
    await talk.receive(started(1), words(1, "Where is Paris?"), ended(1))
    await talk.answer("In France.")
    assert [clause.spoken for clause in talk.told(Clause)] == [False]
    assert talk.port.frames("tts", Clause) == []
    await talk.close()


async def test_the_same_messages_of_an_application_change_nothing() -> None:
    talk = Conversation()
    data = {"t": "eval-context", "d": {"messages": [{"role": "user", "content": "I am Ann."}]}}
    await talk.receive(ClientMessage(id="1", type="client-message", data=json.dumps(data).encode()))
    assert talk.stage.context.history == ()
    await talk.close()


async def test_what_was_heard_is_told_to_the_edge_and_another_stage_goes_on_with_it() -> None:
    talk = Conversation()
    await talk.receive(READY, started(1), words(1, "Where is Paris?"), ended(1))
    await talk.answer("In France.")
    await talk.receive(played(1, 1, 0))
    conversation = snapshot.decode_conversation(talk.told(Remembered)[-1].conversation)
    assert conversation == [Said(1, 0, "user", "Where is Paris?"), Said(1, 1, "assistant", "In France.")]
    await talk.close()

    there = Conversation(earlier=Snapshot(1, True, conversation))
    await there.receive(started(1), words(1, "stale"), ended(1))
    assert there.requests == []
    await there.receive(started(2), words(2, "And Rome?"), ended(2))
    assert there.prompt() == [("user", "Where is Paris?"), ("assistant", "In France."), ("user", "And Rome?")]
    await there.close()


class Traveller(Bot):
    """Says when it begins and ends."""

    told: ClassVar[list[str]] = []

    async def on_start(self, session: Session) -> None:
        Traveller.told.append("start")

    async def on_move(self, session: Session) -> None:
        Traveller.told.append("move")

    async def on_end(self, session: Session) -> None:
        Traveller.told.append("end")


async def test_a_bot_whose_session_does_not_come_after_all_hears_nothing_of_it() -> None:
    Traveller.told.clear()
    there = Conversation(Traveller, earlier=Snapshot(1, True, []))
    await there.stage.open()
    await there.close()
    assert Traveller.told == []


async def test_a_bot_whose_session_moves_begins_once_and_ends_once() -> None:
    Traveller.told.clear()
    here = Conversation(Traveller)
    await here.stage.open()
    await here.receive(READY)
    await here.until(lambda: Traveller.told == ["start"])
    await here.receive(Moved())
    await here.close()
    there = Conversation(Traveller, earlier=Snapshot(1, True, []))
    await there.stage.open()
    await there.receive(READY)
    assert Traveller.told == ["start"]
    await there.receive(ClientMessage(id="", type="session-moved", data=b"{}"))
    await there.until(lambda: Traveller.told == ["start", "move"])
    await there.close()
    assert Traveller.told == ["start", "move", "end"]
