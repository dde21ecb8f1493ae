"""What an application developer writes and receives: :class:`Bot`, :class:`Session`, :class:`Turn`, and :func:`serve`.

::

    import rtvi_actors as ra

    class Concierge(ra.Bot):
        instructions = "You are a hotel concierge. Answer in one or two sentences."

        async def on_start(self, session: ra.Session) -> None:
            await session.say("Good evening, how can I help?")

    ra.serve(Concierge)

A session has its own object of the class, and its own thread for the hooks: one that blocks makes its own session wait, no other.
Hooks may also be plain functions; those run in a thread pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.llm.hooks import SessionHooks, Voice, current_call
from rtvi_actors.observe import log

MAX_SAID_CHARS = 10_000
"""Longest text that :meth:`Session.say` takes."""
MAX_REASON_CHARS = 500
"""Longest reason that :meth:`Session.end` takes."""

Commit: TypeAlias = Literal["heard", "full"]
COMMITS = get_args(Commit)
"""What the context may keep of a text that the application says."""

HOOKS = ("on_start", "on_move", "on_turn", "on_end")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the user's, settled. ``source``: ``speech`` or ``text``. ``number`` rises from turn to turn, with gaps."""

    number: int
    text: str
    source: str


class Session:
    """A conversation with one client."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self.id = voice.session
        """Unique in the app."""
        self.body: Mapping[str, Any] = MappingProxyType(dict(voice.body))
        """What the client gave as ``body`` at ``POST /start``; empty for one that came without. It is a stranger's word."""

    async def say(self, text: str, commit: Commit = "heard") -> None:
        """Say ``text``; returns when the user heard it, or interrupted it.

        It waits until the bot is silent. Inside ``on_turn`` it is different: there the text becomes the next part of that turn's
        answer, and say returns at once. White space alone is not said.

        Args:
            text: what to say.
            commit: what the model's context keeps of it: the words that the user ``heard``, or, even when interrupted, the ``full``
                text: for what must not be taken as unsaid, like a notice that was sent in writing, too.

        Cancelling withdraws a text that is not being said yet; what is being said goes on.

        Raises:
            SessionClosedError: the session is over.
            SessionError: too many texts wait to be said.
            ValueError: longer than 10,000 characters; another ``commit``; or ``full`` inside ``on_turn``, where an answer is kept
                as far as it was heard.
        """
        if commit not in COMMITS:
            raise ValueError(f"commit={commit!r}: allowed are {' and '.join(map(repr, COMMITS))}")
        if len(text) > MAX_SAID_CHARS:
            raise ValueError(f"a text of {len(text):,} characters is too long to say; {MAX_SAID_CHARS:,} are allowed")
        if not text.strip():
            return
        call = current_call.get()
        if call is not None and call.open:
            if commit == "full":
                raise ValueError(
                    "commit='full' is for a text of its own; inside on_turn it is part of an answer, kept as it was heard"
                )
            await call.put(text if text[-1].isspace() else text + " ")
        else:
            await asyncio.wrap_future(self._voice.say(text, whole=commit == "full"))

    def end(self, reason: str = "") -> None:
        """End the session once the bot has finished. Returns at once, and may be called from any thread.

        What was given to :meth:`say` is heard first, and inside ``on_turn`` that turn's answer, whatever of it is still to come;
        ``session.finish_ms`` of the configuration is the longest that this may take. From then on the user is not heard any more,
        and what else is given to :meth:`say` fails with SessionClosedError. The client is told ``reason``.

        Raises:
            ValueError: ``reason`` is longer than 500 characters.
        """
        if len(reason) > MAX_REASON_CHARS:
            raise ValueError(f"a reason of {len(reason):,} characters is too long; {MAX_REASON_CHARS} are allowed")
        self._voice.end(reason)


class Bot:
    """Base of every bot, and a bot by itself: the model answers, kept short.

    An object is made for each session, without arguments, in the process of the session's LLM actor.
    """

    instructions: ClassVar[str] = "Answer in one or two short sentences."
    """The system prompt."""

    async def on_start(self, session: Session) -> None:
        """The client is ready. Greet it here."""

    async def on_move(self, session: Session) -> None:
        """The session goes on in this process, with this bot, made anew; comes in place of ``on_start``.

        A node that is emptied hands its sessions to others, between two turns. What was said is kept; what the earlier bot had in
        its attributes is not, and its ``on_end`` is not called: get back here what ``on_start`` had got.
        """

    async def on_turn(self, session: Session, turn: Turn) -> str | AsyncIterator[str] | None:
        """Answer a turn: a text, an async iterator of pieces, or None: then the model answers.

        May also be an async generator. It is cancelled when the user interrupts. An exception ends the answer and is told to the
        client as an error of this turn; so does an answer of which nothing comes for ``llm.timeout_ms``.

        Overriding it costs the head start: the model no longer begins before the user's turn is settled.
        """
        return None

    async def on_end(self, session: Session) -> None:
        """The session is over; comes only after ``on_start``. Must return within 1 s. Nothing can be said any more."""


class BotClass:
    """A bot's class as the LLM stage sees it (``llm.hooks.BotHooks``)."""

    def __init__(self, bot: type[Bot]) -> None:
        self._bot = bot
        self.name = bot.__name__
        self.instructions = bot.instructions
        self.overrides = frozenset(hook for hook in HOOKS if getattr(bot, hook) is not getattr(Bot, hook))
        self.blocking = frozenset(hook for hook in self.overrides if not _is_async(getattr(bot, hook)))

    def open(self, voice: Voice) -> SessionHooks:
        """The bot of a new session. Raises what the application's ``__init__`` raises."""
        return _SessionBot(self._bot(), Session(voice))


class _SessionBot:
    """One session's bot (``llm.hooks.SessionHooks``)."""

    def __init__(self, bot: Bot, session: Session) -> None:
        self._bot = bot
        self._session = session

    def on_start(self) -> Any:
        return self._bot.on_start(self._session)

    def on_move(self) -> Any:
        return self._bot.on_move(self._session)

    def on_turn(self, turn: int, text: str, source: str) -> Any:
        return self._bot.on_turn(self._session, Turn(turn, text, source))

    def on_end(self) -> Any:
        return self._bot.on_end(self._session)


def serve(bot: type[Bot] | str = Bot, config: Config | None = None) -> None:
    """Serve ``bot`` until Ctrl-C or SIGTERM: a class, ``"module:Class"`` or ``"path/to/file.py:Class"``.

    A class of the running script may be given: the actors import its file by path, in which this call then does nothing.

    Raises:
        ConfigError: the bot cannot be found by name in another process, or the configuration is wrong.
    """
    if _importing.active:
        return
    name = absolute_bot_name(bot) if isinstance(bot, str) else bot_name(bot)
    run = importlib.import_module("rtvi_actors.cli.serve").run
    run((config or Config()).replace(bot={"class": name}))


# ------------------------------------------------------------------------------------------------------- names of bots


class _Importing(threading.local):
    """Whether this thread imports a bot's file: a ``serve`` at its end must not start an app in an actor."""

    active = False


_importing = _Importing()


def bot_name(bot: type[Bot]) -> str:
    """The name by which another process finds ``bot``: ``module:Class``, or ``/path/file.py:Class`` for one of a script.

    Raises:
        ConfigError: there is no such name: a class made inside a function, or in an interactive session.
    """
    if "<locals>" in bot.__qualname__:
        raise ConfigError(f"bot {bot.__qualname__}: a class inside a function cannot be found by name; move it to the module")
    module = sys.modules.get(bot.__module__)
    if bot.__module__ != "__main__":
        file = getattr(module, "__file__", None)
        by_path = module is not None and getattr(module, "__rtvi_bot_file__", False)
        return f"{file}:{bot.__qualname__}" if by_path and file else f"{bot.__module__}:{bot.__qualname__}"
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return f"{spec.name}:{bot.__qualname__}"
    file = getattr(module, "__file__", None)
    if not file:
        raise ConfigError(f"bot {bot.__qualname__}: a class of an interactive session cannot be found by name; put it into a file")
    return f"{Path(file).resolve()}:{bot.__qualname__}"


def absolute_bot_name(name: str) -> str:
    """``name`` as a process in another folder understands it: the path of a file is made absolute, a module stays."""
    place, colon, path = name.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{path}" if colon and place.endswith(".py") else name


def load_bot(name: str) -> type[Bot]:
    """Import the bot ``module:Class`` or ``path/to/file.py:Class``. The current folder is importable.

    Raises:
        ConfigError: says what of it is wrong: the form, the module, the import of it, the class.
    """
    place, colon, path = name.rpartition(":")
    if not colon or not place or not path:
        raise ConfigError(f"bot = {name!r}: allowed are module:Class and path/to/file.py:Class")
    _make_current_folder_importable()
    with _quiet_serve():
        module = _import_file(name, Path(place)) if place.endswith(".py") else _import_module(name, place)
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if _is_bot(value) and value is not Bot]
        raise ConfigError(f"bot = {name!r}: {place} has no {path}; bots there: {', '.join(classes) or 'none'}")
    if not _is_bot(found):
        raise ConfigError(f"bot = {name!r}: {path} must be a subclass of rtvi_actors.Bot")
    if not isinstance(found.instructions, str):
        raise ConfigError(f"bot = {name!r}: instructions = {found.instructions!r} must be a str")
    return cast("type[Bot]", found)


def load_hooks(name: str) -> BotClass:
    """The bot called ``name`` for the LLM stage, which finds this function by name. Raises as :func:`load_bot`.

    What the bot's module logs is logged as our own lines are, with session and turn.
    """
    bot = load_bot(name)
    log.listen_to(bot.__module__)
    return BotClass(bot)


def _is_bot(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Bot)


def _is_async(function: Any) -> bool:
    target = inspect.unwrap(function)
    return inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)


def _import_module(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise ConfigError(f"bot = {name!r}: there is no module {module!r} here or among the installed ones") from None
        raise _import_failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _import_file(name: str, file: Path) -> ModuleType:
    """Import a script as a module, once per process, with its folder importable as when it runs by itself."""
    file = file.expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"bot = {name!r}: there is no file {file}")
    module_name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"bot = {name!r}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__rtvi_bot_file__"] = True
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _import_failed(name, error) from error
    return module


def _import_failed(name: str, error: BaseException) -> ConfigError:
    first_line = (str(error).splitlines() or [""])[0]
    return ConfigError(f"bot = {name!r}: importing it failed: {type(error).__name__}: {first_line}")


@contextmanager
def _quiet_serve() -> Iterator[None]:
    before, _importing.active = _importing.active, True
    try:
        yield
    finally:
        _importing.active = before


def _make_current_folder_importable() -> None:
    """As for ``python -m``. It stays so, since bots import late, too."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
