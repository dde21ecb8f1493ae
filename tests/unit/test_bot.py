"""The public API of a bot: names, loading, what a session's bot may do."""

from __future__ import annotations

import asyncio
import sys
import types
from concurrent.futures import Future
from pathlib import Path

import pytest

from rtvi_actors import bot as bot_module
from rtvi_actors.bot import MAX_SAID_CHARS, Bot, BotClass, Session, Turn, absolute_bot_name, bot_name, load_bot, load_hooks, serve
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, SessionClosedError

pytestmark = pytest.mark.unit


SCRIPT = """
import rtvi_actors.bot as ra
from {sibling} import WORD

class Shop(ra.Bot):
    instructions = WORD

class Other(ra.Bot):
    instructions = 7

class Nothing:
    pass

ra.serve(Shop)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that serves its own class, beside a module that it imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    sibling = f"words_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{sibling}.py").write_text("WORD = 'Sell bread.'\n")
    file = tmp_path / "shop.py"
    file.write_text(SCRIPT.format(sibling=sibling))
    return file


def test_a_class_of_a_module() -> None:
    assert bot_name(Bot) == "rtvi_actors.bot:Bot"
    assert load_bot("rtvi_actors.bot:Bot") is Bot


def test_a_script_is_loaded_by_path_and_does_not_serve_again(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = load_bot(f"{script}:Shop")
    assert shop.instructions == "Sell bread."
    assert load_bot(f"{script}:Shop") is shop
    assert bot_name(shop) == f"{script}:Shop"
    monkeypatch.chdir(script.parent)
    assert load_bot("shop.py:Shop") is shop
    assert absolute_bot_name("shop.py:Shop") == f"{script}:Shop"
    assert absolute_bot_name("shop:Shop") == "shop:Shop"
    assert load_bot("shop:Shop").instructions == "Sell bread."


def test_a_class_of_main_is_named_by_its_file(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    made = type("Shop", (Bot,), {"__module__": "__main__"})
    assert bot_name(made) == f"{script}:Shop"
    main.__spec__ = types.SimpleNamespace(name="apps.shop")  # type: ignore[assignment]
    assert bot_name(made) == "apps.shop:Shop"
    main.__spec__ = main.__file__ = None
    with pytest.raises(ConfigError, match="interactive session"):
        bot_name(made)


def test_a_class_inside_a_function_has_no_name() -> None:
    class Inner(Bot):
        pass

    with pytest.raises(ConfigError, match="inside a function"):
        bot_name(Inner)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Bot", "allowed are module:Class"),
        (":Bot", "allowed are module:Class"),
        ("rtvi_actors.bot:", "allowed are module:Class"),
        ("no_such_module_anywhere:Bot", "there is no module 'no_such_module_anywhere'"),
        ("rtvi_actors.no_such:Bot", "there is no module 'rtvi_actors.no_such'"),
        ("/no/such/file.py:Bot", "there is no file /no/such/file.py"),
        ("rtvi_actors.bot:Robot", "has no Robot; bots there: none"),
        ("rtvi_actors.bot:Session", "must be a subclass of rtvi_actors.Bot"),
        ("{script}:Shops", "has no Shops; bots there: Shop, Other"),
        ("{script}:Other", "instructions = 7 must be a str"),
        ("{script}:Nothing", "must be a subclass"),
        ("{broken}:Bot", "importing it failed: ZeroDivisionError: division by zero"),
        ("{leaving}:Bot", "importing it failed: SystemExit: 3"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name: str, line: str, script: Path) -> None:
    broken, leaving = script.with_name("broken.py"), script.with_name("leaving.py")
    broken.write_text("1 / 0\n")
    leaving.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ConfigError) as caught:
        load_bot(name.format(script=script, broken=broken, leaving=leaving))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


class Hooked(Bot):
    def on_start(self, session: Session) -> None:  # type: ignore[override]
        pass

    async def on_turn(self, session: Session, turn: Turn) -> str:
        return turn.text


def test_what_the_stage_sees_of_a_class() -> None:
    plain, hooked = load_hooks("rtvi_actors.bot:Bot"), BotClass(Hooked)
    assert plain.overrides == frozenset()
    assert plain.instructions == Bot.instructions
    assert hooked.overrides == {"on_start", "on_turn"}
    assert hooked.blocking == {"on_start"}
    assert hooked.name == "Hooked"


class FakeVoice:
    session = "s1"

    def __init__(self) -> None:
        self.body = {"user": "Ada"}
        self.ended: list[str] = []
        self.said: list[tuple[str, Future[None]]] = []
        self.whole: list[bool] = []

    def say(self, text: str, *, whole: bool = False) -> Future[None]:
        self.said.append((text, Future()))
        self.whole.append(whole)
        return self.said[-1][1]

    def end(self, reason: str) -> None:
        self.ended.append(reason)


def test_what_the_client_gave_can_be_read_and_not_written() -> None:
    voice = FakeVoice()
    session = Session(voice)
    assert session.body == {"user": "Ada"}
    voice.body["user"] = "Eve"
    assert session.body["user"] == "Ada"
    with pytest.raises(TypeError):
        session.body["user"] = "Eve"  # type: ignore[index]


def test_end_is_handed_on() -> None:
    voice = FakeVoice()
    session = Session(voice)
    session.end()
    session.end("closed")
    with pytest.raises(ValueError, match="501 characters"):
        session.end("x" * 501)
    assert voice.ended == ["", "closed"]


async def test_say_returns_when_it_was_said() -> None:
    voice = FakeVoice()
    session = Session(voice)
    assert session.id == "s1"
    task = asyncio.create_task(session.say("Hello."))
    await asyncio.sleep(0)
    assert not task.done()
    assert voice.said[0][0] == "Hello."
    voice.said[0][1].set_result(None)
    await task


async def test_say_tells_that_the_session_is_over_and_can_be_cancelled() -> None:
    voice = FakeVoice()
    over = asyncio.create_task(Session(voice).say("One."))
    withdrawn = asyncio.create_task(Session(voice).say("Two."))
    await asyncio.sleep(0)
    voice.said[0][1].set_exception(SessionClosedError("over"))
    with pytest.raises(SessionClosedError):
        await over
    withdrawn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await withdrawn
    assert voice.said[1][1].cancelled()


async def test_say_tells_what_the_context_keeps() -> None:
    voice = FakeVoice()
    says = [Session(voice).say("One."), Session(voice).say("Two.", commit="full"), Session(voice).say("Three.", commit="heard")]
    tasks = [asyncio.create_task(say) for say in says]
    await asyncio.sleep(0)
    for _, future in voice.said:
        future.set_result(None)
    await asyncio.gather(*tasks)
    assert voice.whole == [False, True, False]
    with pytest.raises(ValueError, match="commit='none': allowed are 'heard' and 'full'"):
        await Session(voice).say("Four.", commit="none")  # type: ignore[arg-type]
    assert len(voice.said) == 3


async def test_what_is_not_said() -> None:
    voice = FakeVoice()
    await Session(voice).say("  \n")
    with pytest.raises(ValueError, match="too long"):
        await Session(voice).say("x" * (MAX_SAID_CHARS + 1))
    assert voice.said == []


def test_serve_hands_the_configuration_to_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Config] = []
    monkeypatch.setitem(sys.modules, "rtvi_actors.cli.serve", types.SimpleNamespace(run=served.append))  # type: ignore[arg-type]
    serve(Hooked, Config().replace(edge={"port": 0}))
    serve("some.module:Class")
    assert [config.bot.class_ for config in served] == [f"{__name__}:Hooked", "some.module:Class"]
    assert served[0].edge.port == 0
    assert bot_module._importing.active is False
