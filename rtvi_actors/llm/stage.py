"""The LLM stage: one session's answers, from the transcript to clauses.

``turns.py`` decides which turn is answered and when; ``answer.py`` sends an answer; this module connects them with the context, the
engine and the application's bot.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from rtvi_actors.engines.pool import EngineClient
from rtvi_actors.errors import EngineError, SessionClosedError
from rtvi_actors.frames import snapshot
from rtvi_actors.frames.snapshot import Snapshot
from rtvi_actors.frames.types import Attach, ClientMessage, Error, Frame, Moved, Remembered, Role, SessionEnd, TurnRequest
from rtvi_actors.llm import turns
from rtvi_actors.llm.answer import Answer
from rtvi_actors.llm.context import Context
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.llm.hooks import BotHooks, HookThread, SessionHooks, TurnCall
from rtvi_actors.llm.says import Says

if TYPE_CHECKING:
    from rtvi_actors.config import Config
    from rtvi_actors.runtime.port import StagePort

log = logging.getLogger(__name__)

BOT_LOADER = "rtvi_actors.bot:load_hooks"
"""Who knows the bots. They are above this room, so it is found by name."""
NEW = Snapshot(0, False, [])
"""Of a session that begins."""
END_TIMEOUT_S = 1.0
"""Longest wait for on_end, and then for the bot's thread."""


class LlmStages:
    """Makes the LLM stages of a process, and holds the application's bots. Raises ConfigError for a bot that cannot be loaded."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bots: dict[str, BotHooks] = {}
        for name in (config.bot.class_, *config.bots.values()):
            self._bot(name)

    def create(self, port: StagePort, attach: Attach) -> LlmStage:
        """A stage for a new session.

        Raises:
            ConfigError: its bot cannot be loaded, or one of its settings is wrong.
        """
        config = self._config.replace(llm=attach.services["llm"]) if attach.services.get("llm") else self._config
        name = attach.bot or config.bot.class_
        if name != config.bot.class_:
            config = config.replace(bot={"class": name, "instructions": ""})
        earlier = snapshot.decode(attach.snapshot)
        return LlmStage(port, config, self._bot(name), body=json.loads(attach.body or b"{}"), earlier=earlier)

    def close(self) -> None:
        """Nothing to let go of."""

    def _bot(self, name: str) -> BotHooks:
        if name not in self._bots:
            module, _, function = BOT_LOADER.partition(":")
            self._bots[name] = getattr(importlib.import_module(module), function)(name)
        return self._bots[name]


class LlmStage:
    """One session.

    Sends LlmStarted, LlmText, Clause, LlmEnded, Metrics and Error to the edge, Clause and LlmEnded to the TTS stage, and
    TurnRequest to the speaking stage for what the application says.
    """

    def __init__(
        self,
        port: StagePort,
        config: Config,
        bot: BotHooks,
        hook_thread: Callable[[str, str], HookThread] = HookThread,
        body: Mapping[str, Any] | None = None,
        earlier: Snapshot = NEW,
    ) -> None:
        self.session = port.session
        self.body = body or {}
        self._make_thread = hook_thread
        self.context = Context(config.bot.instructions or bot.instructions)
        self.context.take_over(earlier.conversation)
        self._port = port
        self._config = config.llm
        self._open_timeout_s = config.scheduler.attach_deadline_ms / 1_000
        self._bot = bot
        self._engine = EngineClient(port, "llm", LlmRequest, LlmPiece)
        self._table = turns.TurnTable(config.llm.speculate and "on_turn" not in bot.overrides, earlier.turn)
        self._says = Says(lambda request: port.send("speaking", TurnRequest(request=request, source="say", interrupt=False)))
        self._answers: dict[int, Answer] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._thread: HookThread | None = None
        self._hooks: SessionHooks | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = earlier.started
        self._moved = earlier.started
        """It goes on elsewhere, or may not come here after all: its end here is none of the bot's."""
        self._newest_turn = earlier.turn
        """Of those that the bot has begun to answer."""
        self._silent = False
        """A test wants answers as text only."""
        self._closed = False

    # ------------------------------------------------------------------------------------------------------ as a Stage

    async def open(self) -> None:
        """Make the application's bot, if it has hooks.

        Raises:
            EngineError: its ``__init__`` failed, or took too long.
        """
        self._loop = asyncio.get_running_loop()
        if not self._bot.overrides:
            return
        thread = self._make_thread(self._bot.name, self.session)
        try:
            async with asyncio.timeout(self._open_timeout_s):
                self._hooks = await thread.run("__init__", partial(self._bot.open, self), blocking=False)
            self._thread = thread
        except BaseException as error:
            await thread.close(0.1)
            if isinstance(error, TimeoutError):
                raise EngineError(f"__init__ of {self._bot.name} took longer than {self._open_timeout_s:g} s") from None
            raise

    def receive(self, frame: Frame) -> None:
        """Take one frame."""
        if self._engine.receive(frame):
            return
        if isinstance(frame, ClientMessage):
            self._take_message(frame)
            return
        if isinstance(frame, Moved):
            self._moved = True
            return
        self._do(self._table.handle(frame, self._port.now_ms()))

    def _take_message(self, message: ClientMessage) -> None:
        match message.type:
            case "client-ready":
                self._start_bot()
            case "session-moved":
                self._arrive()
            case "idle-prompt":
                self._says.add(json.loads(message.data)["text"], Future())
            case "eval-connect":
                self._silent = bool(json.loads(message.data)["skip_tts"])
            case "eval-context":
                self.context.replace([(role, text) for role, text in json.loads(message.data)["messages"]])

    @property
    def open_requests(self) -> int:
        """What its engine has not answered to the end."""
        return self._engine.open_requests

    def peer_lost(self, role: Role) -> None:
        """Who played ``role`` is gone."""
        self._engine.lost(role)

    async def close(self) -> None:
        """End the bot. What waits to be said fails with SessionClosedError."""
        self._closed = True
        self._says.close()
        if self._thread is None:
            return
        if self._hooks is not None and self._started and not self._moved and "on_end" in self._bot.overrides:
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._run_hook("on_end", self._hooks)
            except TimeoutError:
                log.warning("on_end of %s took longer than %s s", self._bot.name, END_TIMEOUT_S)
            except EngineError:
                log.debug("on_end of %s failed; its traceback is above", self._bot.name)
        await self._thread.close(END_TIMEOUT_S / 2)

    # ------------------------------------------------------------------------------------------------------ as a Voice

    def say(self, text: str, *, whole: bool = False) -> Future[None]:
        """Say ``text`` in a turn of its own (``hooks.Voice``). From any thread."""
        future: Future[None] = Future()
        if self._loop is None or self._closed:
            future.set_exception(SessionClosedError("the session is over: nothing can be said any more"))
            return future
        try:
            self._loop.call_soon_threadsafe(partial(self._says.add, text, future, whole=whole))
        except RuntimeError:
            future.set_exception(SessionClosedError("the session is over: its process is ending"))
        return future

    def end(self, reason: str) -> None:
        """End the session when what is being said was heard (``hooks.Voice``). From any thread."""
        if self._loop is not None and not self._closed:
            with contextlib.suppress(RuntimeError):  # its process is ending, and the session with it
                self._loop.call_soon_threadsafe(self._says.finish, partial(self._tell_end, reason))

    def _tell_end(self, reason: str) -> None:
        self._port.send("edge", SessionEnd(turn=self._newest_turn, reason=reason))

    # ---------------------------------------------------------------------------------------------------- what to do

    def _do(self, commands: list[turns.Command]) -> None:
        self._carry_out(commands)
        if any(isinstance(command, turns.Commit | turns.Heard | turns.Note) for command in commands):
            self._port.send("edge", Remembered(snapshot.encode_conversation(self.context.told())))

    def _carry_out(self, commands: list[turns.Command]) -> None:
        for command in commands:
            match command:
                case turns.Begin():
                    self._begin(command)
                case turns.Commit():
                    self.context.append_user(command.turn, command.text)
                    if command.turn in self._answers:
                        self._answers[command.turn].commit()
                case turns.Withdraw():
                    self.context.withdraw_user(command.turn)
                case turns.Say():
                    self._say(command)
                case turns.Stop():
                    self._stop(command.turn)
                case turns.Heard():
                    self._heard(command)
                case turns.Note():
                    self.context.append_note(command.text)
                case turns.Lost():
                    text = f"too many typed texts wait for their turn; dropped: {command.text[:80]!r}"
                    self._port.send("edge", Error(scope="turn", retryable=True, text=text))
                case turns.WakeAt():
                    self._port.call_later(max(command.at_ms - self._port.now_ms(), 0), self._wake)

    def _wake(self) -> None:
        self._do(self._table.wake(self._port.now_ms()))

    def _begin(self, begin: turns.Begin) -> None:
        answer = Answer(
            self._port,
            begin.turn,
            begin.attempt,
            spoken=begin.audio and not self._silent,
            committed=begin.committed,
            spoken_error=self._config.spoken_error,
        )
        if not begin.text.strip():
            pieces = _said("")
        elif "on_turn" in self._bot.overrides:
            pieces = self._bot_pieces(begin)
        else:
            pieces = self._model_pieces(begin)
        self._run(answer, begin.text, pieces)

    def _say(self, say: turns.Say) -> None:
        text = self._says.begin(say.turn, say.request)
        answer = Answer(self._port, say.turn, 1, spoken=not self._silent, committed=True)
        self._run(answer, "", _said(text), reason="say")

    def _run(self, answer: Answer, user_text: str, pieces: AsyncGenerator[LlmPiece, None], reason: str = "stop") -> None:
        self._answers[answer.turn] = answer
        self._newest_turn = max(self._newest_turn, answer.turn)
        for stale in sorted(self._answers)[: -turns.MAX_TURNS]:
            del self._answers[stale]
        task = self._port.spawn(answer.run(user_text, pieces, reason), f"answer to turn {answer.turn}")
        self._tasks[answer.turn] = task
        task.add_done_callback(partial(self._forget_task, answer.turn))

    def _forget_task(self, turn: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(turn) is task:
            del self._tasks[turn]

    def _stop(self, turn: int) -> None:
        task = self._tasks.pop(turn, None)
        if task is not None:
            task.cancel()
        if turn in self._answers and not self._answers[turn].committed:
            del self._answers[turn]
        self._says.over(turn)

    def _heard(self, heard: turns.Heard) -> None:
        answer = self._answers.pop(heard.turn, None)
        if answer is None or answer.excused:
            return  # an excuse is not remembered: models repeat what they read of themselves
        kept = self._says.kept_whole(heard.turn)
        if kept:
            self.context.append_heard(heard.turn, [kept], 1, 0, interrupted=False)
            return
        clauses = answer.clauses
        char = heard.char + sum(len(clause) for clause in clauses[: heard.clause])
        whole = answer.complete and char >= len("".join(clauses).rstrip())
        self.context.append_heard(heard.turn, clauses, heard.clause, heard.char, interrupted=not whole)

    # --------------------------------------------------------------------------------------------- where text comes from

    async def _model_pieces(self, begin: turns.Begin) -> AsyncGenerator[LlmPiece, None]:
        """The model's answer. The prompt is built when the first piece is asked for."""
        messages = self.context.messages(begin.turn, begin.text)
        request = LlmRequest(messages, max_tokens=self._config.max_tokens, temperature=self._config.temperature)
        first_ms, idle_ms = self._config.timeout_ms, self._config.idle_timeout_ms
        async with aclosing(self._engine.stream(request, first_timeout_ms=first_ms, idle_timeout_ms=idle_ms)) as pieces:
            async for piece in pieces:
                yield piece

    async def _bot_pieces(self, begin: turns.Begin) -> AsyncGenerator[LlmPiece, None]:
        """What on_turn answers, and the model's answer behind it if it gives None. The hook's time counts as compute."""
        assert self._thread is not None
        assert self._hooks is not None
        function = partial(self._hooks.on_turn, begin.turn, begin.text, begin.source)
        call = TurnCall(self._thread, function, blocking="on_turn" in self._bot.blocking)
        begun_ms = self._port.now_ms()
        async with aclosing(call.pieces(self._config.timeout_ms)) as texts:
            async for text in texts:
                yield LlmPiece(text, compute_ns=(self._port.now_ms() - begun_ms) * 1_000_000)
        hook_ns = (self._port.now_ms() - begun_ms) * 1_000_000
        if call.answered:
            yield LlmPiece("", compute_ns=hook_ns, finish_reason="stop")
            return
        async for piece in self._model_pieces(begin):
            yield LlmPiece(
                piece.text,
                compute_ns=hook_ns + piece.compute_ns,
                finish_reason=piece.finish_reason,
                prompt_tokens=piece.prompt_tokens,
                completion_tokens=piece.completion_tokens,
            )

    # ------------------------------------------------------------------------------------------------------------ hooks

    def _start_bot(self) -> None:
        """The client is ready: on_start, once."""
        if not self._started:
            self._started = True
            if self._hooks is not None and "on_start" in self._bot.overrides:
                self._port.spawn(self._tell_begin("on_start", self._hooks), "on_start")

    def _arrive(self) -> None:
        """The edge has changed over: the session is here now."""
        self._moved = False
        if self._hooks is not None and "on_move" in self._bot.overrides:
            self._port.spawn(self._tell_begin("on_move", self._hooks), "on_move")

    async def _tell_begin(self, hook: str, hooks: SessionHooks) -> None:
        try:
            await self._run_hook(hook, hooks)
        except EngineError as error:
            self._port.send("edge", Error(scope="turn", retryable=False, text=str(error)))

    async def _run_hook(self, hook: str, hooks: SessionHooks) -> None:
        assert self._thread is not None
        await self._thread.run(hook, getattr(hooks, hook), blocking=hook in self._bot.blocking)


async def _said(text: str) -> AsyncGenerator[LlmPiece, None]:
    """A text that is there already, or no text at all."""
    yield LlmPiece(text, compute_ns=0)
