"""Whole conversations: the edge's session, the four stages and the engines' servers, with links that delay each lane by itself.

Nothing is real but the rooms' own code: a virtual clock, so that minutes take milliseconds; links that keep the order of a lane and
nothing else; fake models. A user speaks, coughs, types and falls silent at random, a bot says things at random, and whatever
happens: messages keep the order that clients rely on, each answer is told to be over once, everything comes to rest with all
credit given back, and the next sentence is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import selectors
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

import pytest

from rtvi_actors.bot import Bot, BotClass
from rtvi_actors.config import Config
from rtvi_actors.edge.admission import Lease
from rtvi_actors.edge.session import EdgeSession
from rtvi_actors.edge.wire import AudioIn, MessageIn, decode, encode_audio, encode_message
from rtvi_actors.engines.serve import EngineServer
from rtvi_actors.errors import EngineError
from rtvi_actors.frames.types import Attach, BotState, Frame, Played
from rtvi_actors.llm.stage import LlmStage
from rtvi_actors.runtime.port import Stage, StagePort
from rtvi_actors.runtime.stage_host import SessionHost
from rtvi_actors.speaking.stage import SpeakingStage
from rtvi_actors.speaking.vad import VadState
from rtvi_actors.stt.stage import SttStage
from rtvi_actors.testing.fakes import FakeLlm, FakeStt, FakeTts
from rtvi_actors.tts.stage import TtsStage

pytestmark = pytest.mark.unit

ROLES = ("speaking", "stt", "llm", "tts")
WINDOW = 512
COUGH = 200
"""Value of a cough's samples; those of sentence n have 1,000 + n."""
MURMUR = 300
"""Of a backchannel's."""
WORDS_FROM = 10_000
"""Of the first window that is said word by word; the next one has one more."""
WORD_WINDOWS = 3

Event = tuple[str, Any]
"""What the client got: an RTVI message's type and data, or "audio" and its bytes."""


class Clock(asyncio.SelectorEventLoop):
    """An event loop that does not wait: with nothing to do, it is at once as late as the next timer."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now_s


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        assert timeout is not None, "nothing will ever happen again"
        self._clock.now_s += timeout
        return []


class Net:
    """Links between named actors. Each lane of each link keeps its order, and is slow for a while now and then."""

    def __init__(self, clock: Clock, rng: random.Random, lag_s: float) -> None:
        self.nodes: dict[str, Any] = {}
        self.played: list[Played] = []
        self.states: dict[int, list[str]] = defaultdict(list)
        self._clock, self._rng, self._lag_s = clock, rng, lag_s
        self._last_s: dict[tuple[str, str, str], float] = {}
        self._slow: dict[tuple[str, str, str], tuple[float, float]] = {}

    def links(self, name: str) -> Links:
        return Links(self, name)

    def carry(self, source: str, to: str, frame: Frame) -> None:
        now_s, lane = self._clock.time(), (source, to, frame.LANE)
        until_s, extra_s = self._slow.get(lane, (0.0, 0.0))
        if now_s > until_s:
            extra_s = self._rng.choice([0, 0, 0, self._rng.random() * self._lag_s])
            self._slow[lane] = (now_s + 1.5 * self._rng.random(), extra_s)
        at_s = max(self._last_s.get(lane, 0) + 1e-6, now_s + 0.001 * self._rng.random() + extra_s)
        self._last_s[lane] = at_s
        self._clock.call_at(at_s, self.nodes[to].on_frame, source, frame)
        if to == "llm" and isinstance(frame, Played):
            self.played.append(frame)
        elif to == "llm" and isinstance(frame, BotState):
            self.states[frame.turn].append(frame.state)


class Links:
    def __init__(self, net: Net, name: str) -> None:
        self._net, self._name = net, name

    def connected(self, peer: str) -> bool:
        return peer in self._net.nodes

    def send(self, peer: str, frame: Frame) -> bool:
        if peer in self._net.nodes:
            self._net.carry(self._name, peer, frame)
        return peer in self._net.nodes


class Loudness:
    """A Vad: whatever is not silent is speech."""

    def probability(self, window: bytes, state: VadState) -> float:
        return float(any(window[WINDOW : WINDOW + 2]))


class Stages:
    def __init__(self, make: Callable[[StagePort], Stage]) -> None:
        self._make = make

    def create(self, port: StagePort, attach: Attach) -> Stage:
        return self._make(port)

    def close(self) -> None: ...


class Moods:
    """How the models do today: how often they fail, or are later than anybody waits."""

    def __init__(self, rng: random.Random, fail: float, late: float) -> None:
        self.rng, self.fail, self.late = rng, fail, late

    def delay_ms(self) -> float:
        return 6_000 if self.rng.random() < self.late else self.rng.choice([5, 30, 150, 400])

    def check(self) -> None:
        if self.rng.random() < self.fail:
            raise EngineError("the fake has a bad day")


class Ears(FakeStt):
    def __init__(self, config: Config, moods: Moods) -> None:
        super().__init__(config)
        self._moods = moods

    def _text(self, session: str, pcm: bytes) -> str:
        values = array("h", pcm)[WINDOW // 2 :: WINDOW]
        sentences = dict.fromkeys(value - 1_000 for value in values if 1_000 <= value < WORDS_FROM)
        heard = [f"Please do thing {number}{'.' if number % 3 else ' and'}" for number in sentences]
        if MURMUR in values:
            heard.append("Mhm.")
        if words := [word_of(value) for value in values if is_word(value)]:
            heard.append(f"{' '.join(words)}{'.' if int(words[-1][1:]) % 3 else ' and'}")
        return " ".join(heard)

    async def stream(self, session: str, request: Any) -> Any:
        self.delay_ms = self._moods.delay_ms()  # type: ignore[misc]
        async for piece in super().stream(session, request):
            self._moods.check()
            yield piece


def is_word(value: int) -> bool:
    """Whether the middle of a word is in a window of this loudness: a word that is cut there is heard on one side only."""
    return value >= WORDS_FROM and value % WORD_WINDOWS == 1


def word_of(value: int) -> str:
    return f"w{(value - WORDS_FROM) // WORD_WINDOWS:05}"


class Mind(FakeLlm):
    answers: ClassVar[tuple[str, ...]] = (
        "I heard: {text} Then I went on. And on, and on, for a while.",
        "Yes.",
        "",
        "one two three four five six seven eight nine ten eleven twelve thirteen.",
    )

    def __init__(self, config: Config, moods: Moods) -> None:
        super().__init__(config)
        self._moods = moods

    async def stream(self, session: str, request: Any) -> Any:
        self.first_ms = self._moods.delay_ms()  # type: ignore[misc]
        async for piece in super().stream(session, request):
            self._moods.check()
            yield piece


class Voice(FakeTts):
    ms_per_character = 25

    def __init__(self, config: Config, moods: Moods) -> None:
        super().__init__(config)
        self._moods = moods

    async def stream(self, session: str, request: Any) -> Any:
        self.first_ms = self._moods.delay_ms()  # type: ignore[misc]
        async for piece in super().stream(session, request):
            self._moods.check()
            yield piece


class Edge:
    session: EdgeSession

    def on_frame(self, peer: str, frame: Frame) -> None:
        self.session.receive(peer, frame)


class Talk:
    """One conversation, and the user's part in it."""

    def __init__(
        self, seed: int, *, lag_s: float = 0.03, fail: float = 0.0, late: float = 0.0, llm_timeout_ms: int = 2_000
    ) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.net = Net(self.clock, self.rng, lag_s)
        self.got: list[Event] = []
        self.closed: int | None = None
        self.microphone_on = True
        self._sentences = 0
        self._loudness = 0
        self._chatting = False
        self._windows_said = 0
        self.words_said: list[str] = []
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.moods = Moods(self.rng, fail, late)
        self.config = Config.from_dict({"llm": {"timeout_ms": llm_timeout_ms}, "tts": {"timeout_ms": 2_000}})
        self.hosts: dict[str, SessionHost] = {}
        self.engines: dict[str, EngineServer] = {}
        self.backends: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------------- all that there is

    async def open(self) -> None:
        config = self.config
        makers: dict[str, Callable[[StagePort], Stage]] = {
            "speaking": lambda port: SpeakingStage(port, config.speaking, Loudness()),
            "stt": lambda port: SttStage(config, port),
            "llm": lambda port: LlmStage(port, config, BotClass(Bot)),
            "tts": lambda port: TtsStage(config, port),
        }
        for role, make in makers.items():
            host = SessionHost(role, Stages(make), self.net.links(role), limit=1, open_deadline_ms=1_000)
            self.hosts[role] = self.net.nodes[role] = host
        self.backends = {"stt": Ears(config, self.moods), "llm": Mind(config, self.moods), "tts": Voice(config, self.moods)}
        for kind, backend in self.backends.items():
            self.engines[kind] = self.net.nodes[f"engine-{kind}"] = EngineServer(kind, backend, self.net.links(f"engine-{kind}"))
        edge = self.net.nodes["edge"] = Edge()
        route = {role: [role] for role in ("edge", *ROLES)} | {f"engine/{kind}": [f"engine-{kind}"] for kind in self.engines}
        self.session = edge.session = EdgeSession(Lease("s1", 1, route, ""), self.net.links("edge"), config)
        await self.session.attach()
        self.hosted = {role: host._sessions["s1"] for role, host in self.hosts.items()}
        self.tasks = [asyncio.create_task(self.session.serve(self, self._read())), asyncio.create_task(self._microphone())]
        self.message("client-ready", {"version": "2.2.0"})

    async def end(self) -> bool:
        """The client goes. Says whether all stages gave everything back."""
        self.hang_up()
        self.tasks[1].cancel()
        await self.tasks[0]
        clean = await self.session.close()
        await asyncio.sleep(3)
        return clean

    async def _read(self) -> AsyncIterator[bytes]:
        while (data := await self._incoming.get()) is not None:
            yield data

    async def _microphone(self) -> None:
        while True:
            if self.microphone_on:
                loudness = self._next_of_a_word() if self._chatting else self._loudness
                self._incoming.put_nowait(encode_audio(array("h", [loudness] * WINDOW).tobytes(), 16_000))
            await asyncio.sleep(WINDOW / 16_000)

    async def send_bytes(self, data: bytes) -> None:
        match decode(data):
            case AudioIn(pcm=pcm):
                self.got.append(("audio", len(pcm)))
            case MessageIn(text=text):
                message = json.loads(text)
                self.got.append((message["type"], message.get("data")))

    async def send_text(self, text: str) -> None:
        raise NotImplementedError("this client speaks protobuf")

    async def close(self, code: int, reason: str) -> None:
        self.closed = code

    # ------------------------------------------------------------------------------------------------ what the user does

    def message(self, kind: str, data: dict[str, Any]) -> None:
        envelope = {"label": "rtvi-ai", "type": kind, "id": "m", "data": data}
        self._incoming.put_nowait(encode_message(json.dumps(envelope)))

    def hang_up(self) -> None:
        self._incoming.put_nowait(None)

    async def speak(self, ms: int) -> str:
        self._sentences += 1
        await self._sound(1_000 + self._sentences, ms)
        return f"thing {self._sentences}"

    def _next_of_a_word(self) -> int:
        value = WORDS_FROM + self._windows_said
        self._windows_said += 1
        if is_word(value):
            self.words_said.append(word_of(value))
        return value

    async def chat(self, ms: int) -> None:
        """Speak word by word; ``words_said`` has them."""
        self._chatting = True
        try:
            await asyncio.sleep(ms / 1_000)
        finally:
            self._chatting = False

    async def murmur(self, ms: int) -> None:
        await self._sound(MURMUR, ms)

    async def keep_quiet(self, ms: int) -> None:
        await self._sound(0, ms)

    def recorded(self, *sounds_ms: int) -> list[str]:
        """What the client recorded before it was connected, all at once: sentences with silence behind each, which is negative."""
        words = []
        for ms in sounds_ms:
            loudness = 0
            if ms > 0:
                self._sentences += 1
                words.append(f"thing {self._sentences}")
                loudness = 1_000 + self._sentences
            for _ in range(abs(ms) // 16):
                self._incoming.put_nowait(encode_audio(array("h", [loudness] * (WINDOW // 2)).tobytes(), 16_000))
        return words

    async def cough(self, ms: int) -> None:
        await self._sound(COUGH, ms)

    async def _sound(self, loudness: int, ms: int) -> None:
        self._loudness = loudness
        try:
            await asyncio.sleep(ms / 1_000)
        finally:
            self._loudness = 0

    def type(self, text: str, **options: bool) -> None:
        self.message("send-text", {"content": text, "options": options})

    def say(self, text: str, *, whole: bool = False) -> Any:
        """As the application would."""
        stage: Any = self.hosted["llm"].stage
        return stage.say(text, whole=whole)

    def answers(self) -> list[Any]:
        """The bot's messages in the model's context."""
        stage: Any = self.hosted["llm"].stage
        return [message for message in stage.context.history if message.role == "assistant"]

    async def chat_at_random(self, acts: int) -> None:
        """As users are who do not wait: they go on behind a commit, murmur under the bot, and type in mid-sentence."""
        rng = self.rng
        for _ in range(acts):
            match rng.choices(["chat", "type", "murmur", "cough", "say"], [40, 12, 12, 5, 8])[0]:
                case "chat":
                    await self.chat(rng.choice([130, 200, 400, 700, 1_200]))
                case "type":
                    speech = asyncio.create_task(self.chat(1_200))
                    await asyncio.sleep(rng.choice([0.15, 0.4, 0.7]))
                    self.type(f"typed {len(self.words_said)}")
                    await speech
                case "murmur":
                    await self.murmur(rng.choice([100, 300, 600, 900]))
                case "cough":
                    await self.cough(rng.choice([70, 200, 600]))
                case "say":
                    self.say("I say this. And that too, at length.")
            await asyncio.sleep(rng.choice([0.05, 0.22, 0.3, 0.4, 0.55, 0.85, 0.95, 1.1, 1.6, 3]))

    async def at_random(self, acts: int) -> None:
        rng = self.rng
        for _ in range(acts):
            match rng.choices(["speak", "cough", "type", "note", "say", "mute", "wait"], [33, 12, 8, 3, 10, 5, 5])[0]:
                case "speak":
                    await self.speak(rng.choice([100, 200, 400, 700, 1_200, 4_000]))
                case "cough":
                    await self.cough(rng.choice([70, 120, 200, 350, 600]))
                case "type":
                    self.type("Typed.", audio_response=rng.random() < 0.7)
                case "note":
                    self.type("Noted.", run_immediately=False)
                case "say":
                    for _ in range(rng.choice([1, 1, 3])):
                        self.say("I say this. And that too, at length.")
                case "mute":
                    self.microphone_on = False
                    await asyncio.sleep(rng.choice([0.5, 1.6, 3]))
                    self.microphone_on = True
            await asyncio.sleep(rng.choice([0, 0.02, 0.1, 0.15, 0.25, 0.4, 0.9, 1.5, 3, 6]))

    # ----------------------------------------------------------------------------------------------------- what must hold

    async def until(self, true: Callable[[], Any], deadline_s: float) -> bool:
        end_s = self.clock.time() + deadline_s
        while not true():
            if self.clock.time() > end_s:
                return False
            await asyncio.sleep(0.02)
        return True

    def waiting(self) -> list[str]:
        """What anybody still holds or waits for."""
        conversation = self.session._conversation
        found = ["the edge is busy"] if conversation.busy or conversation._join._turns or conversation.playout._turns else []
        speaking, llm = (self.hosted[role].stage for role in ("speaking", "llm"))
        if not speaking._machine.idle:
            found.append("the speaking stage waits")
        if llm._says._current or llm._says._waiting:
            found.append("texts wait to be said")
        if self.hosted["stt"].stage._turns:
            found.append("the STT stage has turns")
        if self.hosted["tts"].stage._queue:
            found.append("clauses wait")
        for role, hosted in self.hosted.items():
            found += [task.get_name() for task in hosted.port._tasks]
            for (to, stream), gate in hosted.port._gates.items():
                if gate._window.outstanding_bytes or gate._line:
                    found.append(f"{role} misses {gate._window.outstanding_bytes} bytes of credit for {stream} from {to}")
        return found + [f"engine {kind} works" for kind, engine in self.engines.items() if engine.stats()["in_flight"]]

    async def rest(self) -> None:
        """Wait until all that was begun is over, and told to everybody."""
        await asyncio.sleep(3)
        assert await self.until(lambda: not self.waiting(), 60), self.waiting()
        await asyncio.sleep(1)

    async def check(self) -> None:
        """Everything comes to rest, and the next sentence is answered."""
        self.microphone_on = True
        await self.until(lambda: not self.waiting(), 60)
        assert self.waiting() == []
        self.moods.fail = self.moods.late = 0
        before = len(self.got)
        words = await self.speak(1_200)

        def answered() -> bool:
            new = self.got[before:]
            heard = any(kind == "user-transcription" and data["final"] and words in data["text"] for kind, data in new)
            return heard and any(kind == "bot-llm-stopped" for kind, _ in new)

        assert await self.until(answered, 10), self.got[before:]
        await self.until(lambda: not self.waiting(), 30)
        assert self.waiting() == []
        check_messages(self.got)
        assert set(Counter(frame.turn for frame in self.net.played).values()) <= {1}, "what was heard of a turn is told once"
        assert {frame.turn for frame in self.net.played} == set(self.net.states)
        for states in self.net.states.values():
            assert states in (["thinking", "silent"], ["thinking", "speaking", "silent"])


PAIRS = {
    "user-started-speaking": "user-stopped-speaking",
    "bot-llm-started": "bot-llm-stopped",
    "bot-tts-started": "bot-tts-stopped",
    "bot-started-speaking": "bot-stopped-speaking",
}
STOPS = {stop: start for start, stop in PAIRS.items()}
INSIDE = {"audio": "bot-started-speaking", "bot-tts-text": "bot-started-speaking", "bot-llm-text": "bot-llm-started"}


def check_messages(got: list[Event]) -> None:
    """The order that a client may rely on."""
    is_open: set[str] = set()
    unanswered = ""
    for number, (kind, data) in enumerate(got):
        where = got[max(0, number - 12) : number + 1]
        if kind in PAIRS:
            assert kind not in is_open, where
            is_open.add(kind)
        elif kind in STOPS:
            assert STOPS[kind] in is_open, where
            is_open.remove(STOPS[kind])
        assert INSIDE.get(kind, kind) in is_open or kind not in INSIDE, where
        if kind == "bot-output" and data["spoken"]:
            assert "bot-started-speaking" in is_open, where
        elif kind == "user-transcription" and data["final"]:
            assert "user-started-speaking" not in is_open, where
            unanswered = data["text"]
        elif kind in ("bot-llm-started", "bot-interrupted"):
            unanswered = ""
        elif kind == "error":
            assert not data["fatal"], where
    assert not is_open
    assert not unanswered


def run(monkeypatch: pytest.MonkeyPatch, talk: Talk, part: Callable[[Talk], Awaitable[None]]) -> None:
    """Open the session, play ``part``, and end it. Nothing of it may stay anywhere."""

    async def whole() -> None:
        await talk.open()
        await part(talk)
        assert await talk.end(), "a stage did not give everything back"
        assert {role: host.stats()["sessions"] for role, host in talk.hosts.items()} == dict.fromkeys(ROLES, 0)
        for engine in talk.engines.values():
            assert (engine.stats()["sessions"], engine.stats()["in_flight"]) == (0, 0)

    monkeypatch.setattr(time, "monotonic_ns", lambda: int(talk.clock.now_s * 1e9))
    with asyncio.Runner(loop_factory=lambda: talk.clock) as runner:
        runner.run(whole())


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_the_conversation_goes_on(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    async def part(talk: Talk) -> None:
        await talk.at_random(25)
        await talk.check()

    lag_s, (fail, late) = (0.003, 0.03, 0.15, 0.4)[seed % 4], ((0.0, 0.0), (0.03, 0.0), (0.0, 0.1), (0.03, 0.1))[seed // 4]
    run(monkeypatch, Talk(seed, lag_s=lag_s, fail=fail, late=late), part)


@pytest.mark.parametrize("seed", range(12))
def test_wherever_it_ends_nothing_is_left(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    async def part(talk: Talk) -> None:
        user = asyncio.create_task(talk.at_random(25))
        await asyncio.sleep(20 * talk.rng.random())
        user.cancel()
        if seed % 2:
            talk.message("disconnect-bot", {})
            assert await talk.until(lambda: talk.closed is not None, 31)
        else:
            talk.hang_up()

    run(monkeypatch, Talk(seed, lag_s=0.15, fail=0.03, late=0.1), part)


@pytest.mark.parametrize("ms", [100, 300, 600, 900])
@pytest.mark.parametrize("sound", ["cough", "murmur"])
def test_who_only_listens_hears_everything(monkeypatch: pytest.MonkeyPatch, sound: str, ms: int) -> None:
    """Coughs and backchannels hold the bot up for a moment. It goes on where it stopped, and nobody is told of them."""
    text = "A long sentence about nothing at all. " * 10

    def listen(sound: str) -> int:
        async def part(talk: Talk) -> None:
            said = talk.say(text)
            for _ in range(5):
                await asyncio.sleep(1.1)
                await getattr(talk, sound)(ms)
            assert await talk.until(said.done, 30)
            assert await talk.until(lambda: not talk.waiting(), 10)
            assert {"user-started-speaking", "user-transcription", "bot-interrupted"}.isdisjoint(kind for kind, _ in talk.got)
            assert words_told(talk.got) == text.split()
            assert [message.text for message in talk.answers()] == [text.strip()]

        talk = Talk(1, lag_s=0.003)
        run(monkeypatch, talk, part)
        return sum(data for kind, data in talk.got if kind == "audio")

    assert listen(sound) == listen("keep_quiet")


def test_a_yes_behind_the_question_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said a little early, over the last of the bot's words."""

    async def part(talk: Talk) -> None:
        said = talk.say("Would you like to have your breakfast in your room?")
        await talk.until(lambda: any(kind == "bot-started-speaking" for kind, _ in talk.got), 5)
        await asyncio.sleep(0.9)
        await talk.murmur(300)
        assert await talk.until(said.done, 5)
        assert await talk.until(lambda: any(kind == "bot-llm-stopped" for kind, _ in talk.got), 5)
        assert [data["text"] for kind, data in talk.got if kind == "user-llm-text"] == ["Mhm."]
        await talk.check()

    run(monkeypatch, Talk(1, lag_s=0.003), part)


def words_in(text: str) -> list[str]:
    return re.findall(r"\bw\d{5}\b", text)


@pytest.mark.parametrize("seed", range(30))
def test_every_word_reaches_the_model_once_and_is_answered_once(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whoever goes on, types or murmurs, and however late the transcripts are."""

    async def part(talk: Talk) -> None:
        slow = Moods(talk.rng, 0, 0)
        slow.delay_ms = lambda: talk.rng.choice([30, 150, 400, *([1_100, 2_000] if seed % 2 else [])])  # type: ignore[method-assign]
        talk.backends["stt"]._moods = slow
        await talk.chat_at_random(20)
        await talk.check()
        asked = [message.content for message in talk.backends["llm"].requests[-1].messages if message.role == "user"]
        assert Counter(words_in(" ".join(asked))) == Counter(talk.words_said), "in the model's last prompt"
        told = [data["text"] for kind, data in talk.got if kind == "user-transcription" and data["final"]]
        assert [word for text in told for word in words_in(text)] == talk.words_said, "to the client"
        check_answers(talk.got, is_fast=lag_s < 0.01)

    lag_s = (0.003, 0.03, 0.15, 0.4)[seed // 2 % 4]
    talk = Talk(seed, lag_s=lag_s)
    if seed % 6 == 5:
        talk.config = talk.config.replace(speaking={"reopen_within_ms": 0, "backchannels": []})
    run(monkeypatch, talk, part)


def check_answers(got: list[Event], is_fast: bool) -> None:
    """What was answered is answered again only as part of a longer message, and only if the first answer was interrupted.

    Where links are slow, an answer may be over at the edge before the word comes that the user has gone on.
    """
    answered: list[str] = []
    interrupted = True
    for number, (kind, data) in enumerate(got):
        if kind == "bot-interrupted":
            interrupted = True
        elif kind == "user-llm-text":
            words = words_in(data["text"])
            if not set(words).isdisjoint(answered):
                assert words[: len(answered)] == answered, got[max(0, number - 12) : number + 1]
                assert interrupted or not is_fast, got[max(0, number - 12) : number + 1]
            answered, interrupted = words, False


def words_told(got: list[Event]) -> list[str]:
    """The bot's words that the client was told to be spoken, or may read instead, in the order of the text."""
    segments: dict[int, str] = {}
    for kind, data in got:
        if kind == "bot-output":
            is_read = not data["will_be_spoken"]
            segments[data["segment_id"]] = data["text"] if is_read else data["spoken_progress"]["accumulated_text"]
    return [word for _, text in sorted(segments.items()) for word in text.split()]


@pytest.mark.parametrize("seed", range(12))
def test_the_context_keeps_the_words_that_the_client_was_told(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    async def part(talk: Talk) -> None:
        talk.say("A long sentence about nothing at all. " * 5)
        await asyncio.sleep(1 + talk.rng.random())
        await talk.speak(900)
        await talk.at_random(16)
        await talk.rest()
        history = talk.answers()
        assert [word for message in history for word in message.text.split()] == words_told(talk.got)
        assert history[0].interrupted
        assert 2 < len(history[0].text.split()) < 35

    run(monkeypatch, Talk(100 + seed, lag_s=(0.003, 0.03, 0.15)[seed % 3]), part)


def test_the_context_keeps_all_of_a_text_if_the_application_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(talk: Talk) -> None:
        text = "A long sentence about nothing at all. " * 5
        said = talk.say(text, whole=True)
        await asyncio.sleep(1.5)
        await talk.speak(900)
        assert await talk.until(said.done, 5)
        await talk.rest()
        assert "bot-interrupted" in [kind for kind, _ in talk.got]
        assert (talk.answers()[0].text, talk.answers()[0].interrupted) == (text.strip(), False)
        assert words_told(talk.got)[:35] != text.split()

    run(monkeypatch, Talk(1), part)


@pytest.mark.parametrize("seed", range(6))
def test_no_word_of_what_was_recorded_before_the_connection_is_lost(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    async def part(talk: Talk) -> None:
        recorded = [(900, -250, 1_200, -1_500, 900), (400, -96, 4_000, -1_000), (-2_000, 700, -2_000, 320, -64)][seed % 3]
        words = talk.recorded(*recorded)
        if seed >= 3:
            words.append(await talk.speak(1_000))
        finals: list[str] = []

        def heard() -> list[str]:
            finals[:] = [data["text"] for kind, data in talk.got if kind == "user-transcription" and data["final"]]
            return [word for word in words if re.search(rf"\b{word}\b", " ".join(finals))]

        await talk.until(lambda: heard() == words, 20)
        assert heard() == words, finals
        await talk.check()

    run(monkeypatch, Talk(seed, lag_s=(0.003, 0.15)[seed % 2]), part)


def test_a_very_late_answer_and_a_text_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(talk: Talk) -> None:
        talk.moods.delay_ms = lambda: 40_000 if talk.clock.now_s < 1_005 else 5  # type: ignore[method-assign]
        talk.backends["stt"]._moods = Moods(talk.rng, 0, 0)
        await talk.speak(1_000)
        await asyncio.sleep(3)
        said = talk.say("This waits for the slow answer. " * 4)
        assert await talk.until(said.done, 90)
        await talk.check()

    run(monkeypatch, Talk(1, llm_timeout_ms=60_000), part)


def test_a_long_text_outlives_the_coughs_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(talk: Talk) -> None:
        said = [talk.say("A long sentence about nothing at all. " * 50), talk.say("And this.")]
        for _ in range(36):
            await talk.cough(100)
            await asyncio.sleep(0.8)
        assert await talk.until(lambda: all(future.done() for future in said), 60)
        await talk.check()

    run(monkeypatch, Talk(1), part)


@pytest.mark.parametrize("kind", ["stt", "llm", "tts"])
def test_an_engine_that_is_lost_in_the_middle_of_a_turn(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def part(talk: Talk) -> None:
        await talk.speak(1_000)
        await asyncio.sleep({"stt": 0.11, "llm": 0.25, "tts": 0.4}[kind])
        lost = talk.net.nodes.pop(f"engine-{kind}")
        for role, host in talk.hosts.items():
            host.on_peer(f"engine-{kind}", False, "killed")
            lost.on_peer(role, False, "killed")
        await asyncio.sleep(3)
        await talk.speak(1_000)
        await asyncio.sleep(8)
        assert any(event == "error" for event, _ in talk.got)
        talk.net.nodes[f"engine-{kind}"] = lost
        await talk.check()

    run(monkeypatch, Talk(1), part)


def test_words_of_a_slow_transcript_still_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice a short word under the bot, the second before the transcript of the first: it is not taken for a cough."""

    async def part(talk: Talk) -> None:
        talk.backends["stt"]._moods = slow = Moods(talk.rng, 0, 0)
        slow.delay_ms = lambda: 1_100  # type: ignore[method-assign]
        talk.say("A long sentence about nothing at all. " * 10)
        await asyncio.sleep(1)
        await talk.speak(200)
        await asyncio.sleep(0.95)
        words = await talk.speak(200)
        await asyncio.sleep(3)
        assert "bot-interrupted" in [kind for kind, _ in talk.got]
        assert any(kind == "user-transcription" and data["final"] and words in data["text"] for kind, data in talk.got)
        await talk.check()

    run(monkeypatch, Talk(1, lag_s=0.003), part)
