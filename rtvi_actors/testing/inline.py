"""A whole session in one process: the edge, the four stages and the bot as they are in production, without Ray, sockets and models.

For an application's own tests. A conversation of a minute takes milliseconds, and goes the same way each time::

    from rtvi_actors.testing.inline import Call

    def test_breakfast():
        with Call(Concierge) as call:
            assert call.listen() == "Good evening, how can I help?"
            assert call.say("When is breakfast?").answer == "Breakfast is from seven to ten."

What is real: turn taking, endpointing, barge-in, clauses, playout, heard text, context, RTVI messages, the bot's hooks. What is
not: speech is recognised without an error, the voice is a tone of 60 ms per character, and the model gives the ``answers`` that the
test wants. Hooks run on the test's own thread and on the virtual clock, so ``asyncio.sleep(60)`` in one takes no time.
"""

from __future__ import annotations

import asyncio
import json
from array import array
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from rtvi_actors.bot import Bot, BotClass
from rtvi_actors.config import Config
from rtvi_actors.edge.admission import Lease
from rtvi_actors.edge.session import EdgeSession
from rtvi_actors.edge.wire import AudioIn, MessageIn, decode, encode_audio, encode_message
from rtvi_actors.engines.serve import Backend, EngineServer
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.frames.types import Frame
from rtvi_actors.llm.engine import ChatMessage, LlmRequest
from rtvi_actors.llm.hooks import HookThread
from rtvi_actors.llm.stage import LlmStage
from rtvi_actors.runtime.port import Stage, StagePort
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.speaking.stage import SpeakingStage
from rtvi_actors.speaking.vad import VadState
from rtvi_actors.stt.stage import SttStage
from rtvi_actors.testing.clock import VirtualLoop, virtual_time
from rtvi_actors.testing.fakes import FakeLlm, FakeStt, FakeTts
from rtvi_actors.tts.stage import TtsStage

WINDOW_SAMPLES = 512
MS_PER_CHARACTER = 60
"""How fast the user speaks."""
DEADLINE_S = 120.0
"""Virtual time that an answer may take."""

Answers = Sequence[str] | Callable[[list[ChatMessage]], str]
Until = Literal["answered", "speaking", "said"]


@dataclass(slots=True)
class Reply:
    """What came back. ``heard``: what of the answer the user heard; shorter than ``answer`` after an interruption."""

    transcript: str = ""
    answer: str = ""
    heard: str = ""
    interrupted: bool = False
    errors: list[str] = field(default_factory=list)


class Call:
    """One client in one session. Use as ``with``.

    Args:
        bot: the application's bot.
        config: its sections speaking, edge and so on hold; engines are fakes whatever it says.
        answers: what the model says: texts, one after the other (the last one again and again), or a function of the prompt.
        version: RTVI version of the client.
        body: what the client gives at ``POST /start``, for ``session.body``.

    Attributes:
        messages: (type, data) of every RTVI message so far.
        prompts: what the model was asked, each a list of ChatMessage.
    """

    def __init__(
        self,
        bot: type[Bot] = Bot,
        *,
        config: Config | None = None,
        answers: Answers = ("I see.",),
        version: str = "2.2.0",
        body: Mapping[str, Any] | None = None,
    ) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.prompts: list[list[ChatMessage]] = []
        self._bot = BotClass(bot)
        self._config = config or Config()
        self._version = version
        self._answers = answers
        self._stack = ExitStack()
        self._loop = VirtualLoop()
        self._room = _Room(self._config, self._bot, self._answer, body or {})
        self._client = _Client(self.messages)
        self._tasks: list[asyncio.Task[None]] = []
        self._taken = 0
        """Messages that a reply has told already."""

    def __enter__(self) -> Self:
        self._stack.enter_context(virtual_time(self._loop))
        self._runner = self._stack.enter_context(asyncio.Runner(loop_factory=lambda: self._loop))
        try:
            self._runner.run(self._open())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._runner.run(self._close())
        finally:
            self._stack.close()

    # ---------------------------------------------------------------------------------------------------- what a user does

    def say(self, text: str, *, until: Until = "answered") -> Reply:
        """Speak ``text``, and wait until the bot has answered it; or only until it begins to speak, or until it is said.

        Raises:
            RtviActorsError: that did not happen within two minutes of the call's time, or the session ended.
        """
        return self._runner.run(self._act(self._client.speak(text), until))

    def type(self, text: str, *, until: Until = "answered") -> Reply:
        """Type ``text`` (send-text)."""
        message = ("send-text", {"content": text, "options": {"run_immediately": True, "audio_response": True}})
        return self._runner.run(self._act(self._client.tell(*message), until))

    def listen(self) -> str:
        """Say nothing until the bot is silent and nothing is pending; returns what was heard of it since the last call."""
        return self._runner.run(self._until_quiet()).heard

    def send(self, kind: str, data: Any | None = None) -> None:
        """Send any RTVI message."""
        self._runner.run(self._client.tell(kind, data))

    def advance(self, milliseconds: int) -> None:
        """Let time pass; the microphone stays open and hears nothing."""
        self._runner.run(asyncio.sleep(milliseconds / 1_000))

    def hang_up(self) -> None:
        """Close the connection."""
        self._runner.run(self._client.hang_up())

    # ------------------------------------------------------------------------------------------------- what there is to see

    @property
    def now_ms(self) -> int:
        """The call's clock."""
        return int(self._loop.now_s * 1_000)

    @property
    def closed(self) -> str | None:
        """Why the server closed the connection; None while it is open."""
        return self._client.closed

    @property
    def context(self) -> list[ChatMessage]:
        """What the model would be given now: the instructions, and what was said and heard."""
        stage: Any = self._room.stage("llm")
        messages: list[ChatMessage] = stage.context.messages()
        return messages

    def types(self) -> list[str]:
        """The types of all messages, in order."""
        return [kind for kind, _ in self.messages]

    # -------------------------------------------------------------------------------------------------------------- inside

    async def _open(self) -> None:
        session = await self._room.open()
        self._session = session
        self._tasks = [
            asyncio.create_task(session.serve(self._client, self._client.incoming()), name="inline session"),
            asyncio.create_task(self._client.microphone(), name="inline microphone"),
        ]
        await self._client.tell("client-ready", {"version": self._version, "about": {"library": "rtvi_actors.testing"}})
        await self._until(lambda: "bot-ready" in self.types())

    async def _close(self) -> None:
        await self._client.hang_up()
        if self._tasks:
            self._tasks[1].cancel()
            await asyncio.wait(self._tasks)
        await self._session.close()
        await self._room.close()

    async def _act(self, act: Any, until: Until) -> Reply:
        first = len(self.messages)
        await act
        if until == "speaking":
            await self._until_told(first, {"bot-started-speaking"})
        elif until == "answered":
            await self._until_told(first, {"bot-llm-started", "bot-tts-started", "error"})
            return await self._until_quiet(first)
        return self._reply(first)

    async def _until_told(self, first: int, kinds: set[str]) -> None:
        await self._until(lambda: any(kind in kinds for kind, _ in self.messages[first:]))

    async def _until_quiet(self, first: int | None = None) -> Reply:
        await asyncio.sleep(0.1)
        await self._until(lambda: not self._session.busy)
        return self._reply(first)

    async def _until(self, true: Callable[[], bool]) -> None:
        deadline_s = self._loop.now_s + DEADLINE_S
        while not true():
            if self._client.closed is not None:
                raise RtviActorsError(f"the session ended: {self._client.closed}")
            if self._loop.now_s > deadline_s:
                raise RtviActorsError(f"nothing within {DEADLINE_S:.0f} s; last messages: {', '.join(self.types()[-12:])}")
            await asyncio.sleep(0.01)

    def _reply(self, first: int | None) -> Reply:
        """What came since message ``first``, or since the last reply."""
        reply, heard = Reply(), []
        for kind, data in self.messages[self._taken if first is None else first :]:
            if kind == "user-transcription" and data["final"]:
                reply.transcript = data["text"]
            elif kind == "bot-llm-text":
                reply.answer += data["text"]
            elif kind == "bot-tts-text":
                heard.append(data["text"])
            elif kind == "bot-interrupted":
                reply.interrupted = True
            elif kind == "error":
                reply.errors.append(data["error"])
        reply.heard = " ".join(heard)
        self._taken = len(self.messages)
        return reply

    def _answer(self, messages: list[ChatMessage]) -> str:
        self.prompts.append(messages)
        if callable(self._answers):
            return self._answers(messages)
        return self._answers[min(len(self.prompts), len(self._answers)) - 1]


class _Client:
    """The client's end of the connection (``edge.client.Client``), its microphone and its ear."""

    def __init__(self, messages: list[tuple[str, Any]]) -> None:
        self.closed: str | None = None
        self._messages = messages
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._unsaid: deque[int] = deque()
        """Loudness of the windows that the microphone has to send."""

    async def send_bytes(self, data: bytes) -> None:
        match decode(data):
            case MessageIn(text=text):
                body = json.loads(text)
                self._messages.append((body["type"], body.get("data")))
            case AudioIn():
                pass  # heard text is told by messages

    async def send_text(self, text: str) -> None:
        raise NotImplementedError("this client speaks protobuf")

    async def close(self, code: int, reason: str) -> None:
        self.closed = f"{reason} ({code})"

    async def incoming(self) -> AsyncIterator[bytes | str]:
        while (data := await self._incoming.get()) is not None:
            yield data

    async def tell(self, kind: str, data: Any | None = None) -> None:
        envelope = {"label": "rtvi-ai", "type": kind, "id": f"inline-{len(self._messages)}", "data": data}
        self._incoming.put_nowait(encode_message(json.dumps(envelope)))

    async def hang_up(self) -> None:
        self._incoming.put_nowait(None)

    async def speak(self, text: str) -> None:
        """Say ``text``; returns when the last of it was sent."""
        windows = max(8, len(text) * MS_PER_CHARACTER * 16 // WINDOW_SAMPLES)
        self._unsaid.extend([_Ears.loudness_of(text)] * windows)
        while self._unsaid:
            await asyncio.sleep(0.01)

    async def microphone(self) -> None:
        while True:
            loudness = self._unsaid.popleft() if self._unsaid else 0
            self._incoming.put_nowait(encode_audio(array("h", [loudness] * WINDOW_SAMPLES).tobytes(), 16_000))
            await asyncio.sleep(WINDOW_SAMPLES / 16_000)


class _Room:
    """The actors of one session, and the fake engines: everybody reaches everybody else by name, at once and in order."""

    def __init__(self, config: Config, bot: BotClass, answer: Callable[[list[ChatMessage]], str], body: Mapping[str, Any]) -> None:
        self._config = config
        self._nodes: dict[str, Any] = {}
        self._hosts: dict[str, SessionHost] = {}
        self._engines: dict[str, Backend] = {"stt": _Ears(config), "llm": _Mind(config, answer), "tts": FakeTts(config)}
        self._makers: dict[str, Callable[[StagePort], Stage]] = {
            "speaking": lambda port: SpeakingStage(port, config.speaking, _Loudness()),
            "stt": lambda port: SttStage(config, port),
            "llm": lambda port: LlmStage(port, config, bot, _HooksHere, body),
            "tts": lambda port: TtsStage(config, port),
        }

    async def open(self) -> EdgeSession:
        deadline_ms = self._config.scheduler.attach_deadline_ms
        for role, make in self._makers.items():
            host = SessionHost(role, _One(make), _Links(self._nodes, role), limit=1, open_deadline_ms=deadline_ms)
            self._hosts[role] = self._nodes[role] = host
        for kind, backend in self._engines.items():
            name = f"engine-{kind}"
            self._nodes[name] = EngineServer(kind, backend, _Links(self._nodes, name))
        route = {role: [role] for role in ("edge", *self._makers)} | {
            f"engine/{kind}": [f"engine-{kind}"] for kind in self._engines
        }
        session = EdgeSession(Lease("inline", 1, route, ""), _Links(self._nodes, "edge"), self._config)
        self._nodes["edge"] = _Edge(session)
        await session.attach()
        return session

    def stage(self, role: str) -> Stage | None:
        return self._hosts[role].stage_of("inline")

    async def close(self) -> None:
        for host in self._hosts.values():
            await host.close("the call is over")


class _Links:
    """What a process's switchboard is to its sessions (``runtime.session_port.Links``), without sockets."""

    def __init__(self, nodes: dict[str, Any], name: str) -> None:
        self._nodes, self._name = nodes, name

    def connected(self, peer: str) -> bool:
        return peer in self._nodes

    def send(self, peer: str, frame: Frame) -> bool:
        if peer in self._nodes:
            asyncio.get_running_loop().call_soon(self._nodes[peer].on_frame, self._name, frame)
        return peer in self._nodes


class _Edge:
    def __init__(self, session: EdgeSession) -> None:
        self._session = session

    def on_frame(self, peer: str, frame: Frame) -> None:
        self._session.receive(peer, frame)


class _One:
    """A StageHost that makes stages by a function."""

    def __init__(self, make: Callable[[StagePort], Stage]) -> None:
        self._make = make

    def create(self, port: StagePort, attach: Any) -> Stage:
        return self._make(port)

    def close(self) -> None: ...


class _Loudness:
    """A Vad: whatever is not silent is speech."""

    def probability(self, window: bytes, state: VadState) -> float:
        return float(any(window))


class _Ears(FakeStt):
    """Hears a text by its loudness: each text that was ever said has its own."""

    texts: list[str] = []  # noqa: RUF012 - shared on purpose: speakers and ears agree by it

    @classmethod
    def loudness_of(cls, text: str) -> int:
        if text not in cls.texts:
            cls.texts.append(text)
        return 1_000 + cls.texts.index(text)

    def _text(self, session: str, pcm: bytes) -> str:
        said = dict.fromkeys(value for value in array("h", pcm)[WINDOW_SAMPLES // 2 :: WINDOW_SAMPLES] if value >= 1_000)
        return " ".join(self.texts[value - 1_000] for value in said)


class _Mind(FakeLlm):
    def __init__(self, config: Config, answer: Callable[[list[ChatMessage]], str]) -> None:
        super().__init__(config)
        self._answer = answer

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[Any, None]:
        self.answers = (self._answer(list(request.messages)).replace("{", "{{").replace("}", "}}"),)  # type: ignore[misc]
        async for piece in super().stream(session, request):
            yield piece


class _HooksHere(HookThread):
    """The hooks' thread, without a thread: they run on the stage's own loop, hence on its clock."""

    def __init__(self, bot: str, session: str) -> None:
        self.bot = bot
        self._loop = self._stage_loop = asyncio.get_running_loop()
        self._running: set[Future[Any]] = set()

    def submit(self, work: Any) -> Future[Any]:
        """Start a coroutine."""
        future = super().submit(work)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def watched(self) -> AbstractContextManager[None]:
        """Nothing looks at a loop whose clock the test moves."""
        return nullcontext()

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop."""
        self._loop.call_soon(callback)

    async def close(self, timeout_s: float) -> None:
        """Cancel what runs."""
        for future in list(self._running):
            future.cancel()
        await asyncio.sleep(0)
