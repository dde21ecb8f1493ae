"""What the README says of commands, files and the bot is true."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

import rtvi_actors as ra
from rtvi_actors.bot import load_bot
from rtvi_actors.cli.main import app
from rtvi_actors.config import Config

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> set[str]:
    """What stands behind ``rtvi-actors`` in code."""
    code = re.findall(r"`([^`\n]+)`|^(.*rtvi-actors .*)$", text, re.MULTILINE)
    return set(re.findall(r"(?:^|\s)rtvi-actors ([a-z]+(?: --?[a-z]+)*)", "\n".join(a or b for a, b in code)))


@pytest.fixture
def bot(tmp_path: Path) -> type[ra.Bot]:
    code, _ = blocks("python")
    (tmp_path / "concierge.py").write_text(code)
    return load_bot(f"{tmp_path / 'concierge.py'}:Concierge")


async def test_the_readme_s_bot_is_loaded_and_answers(bot: type[ra.Bot]) -> None:
    assert issubclass(bot, ra.Bot)
    assert "concierge" in bot.instructions
    concierge, said = bot(), []

    class Listener:
        async def say(self, text: str) -> None:
            said.append(text)

    session: Any = Listener()
    await concierge.on_start(session)
    assert said == ["Good evening, how can I help?"]
    assert await concierge.on_turn(session, ra.Turn(1, "When is BREAKFAST?", "speech")) == "Breakfast is from seven to ten."
    assert await concierge.on_turn(session, ra.Turn(2, "And the pool?", "speech")) is None


def test_the_readme_s_bot_overrides_what_it_means_to(bot: type[ra.Bot]) -> None:
    for hook in ("on_start", "on_turn"):
        ours, theirs = (list(inspect.signature(getattr(of, hook)).parameters) for of in (bot, ra.Bot))
        assert ours == theirs, hook


def test_the_readme_s_test_passes(tmp_path: Path) -> None:
    for name, code in zip(("concierge.py", "test_concierge.py"), blocks("python"), strict=True):
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_the_readme_s_configuration_is_accepted() -> None:
    for block in blocks("toml"):
        config = Config.from_dict(tomllib.loads(block))
        assert config != Config()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_commands_and_options_that_exist_are_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for command in commands_of(text):
        assert command.split()[0] in group.commands, command  # type: ignore[attr-defined]
    for line in re.findall(r"^.*rtvi-actors [a-z]+ .*$", text, re.MULTILINE):
        for command, rest in re.findall(r"rtvi-actors ([a-z]+)([^`#]*)", line):
            known = {option for parameter in group.commands[command].params for option in parameter.opts}  # type: ignore[attr-defined]
            assert set(re.findall(r"(?<![\w-])--[a-z]+", rest)) <= known, line


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_make_targets_that_exist_are_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    code = "\n".join("".join(parts) for parts in re.findall(r"`([^`\n]+)`|^(make .*)$", text, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_only_files_that_exist_are_named(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"`([\w./]+\.(?:py|toml|md))`", text)
    for file in named:
        if file in ("my.toml", "concierge.py"):
            continue
        places = [ROOT / file, ROOT / "rtvi_actors" / file]
        assert any(place.exists() for place in places), f"{name} names {file}"
    assert named or name == "CHANGELOG.md"


def test_every_module_is_on_the_map() -> None:
    """ARCHITECTURE.md's map names each module of the package in its room."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    the_map = text[text.index("  bot.py") : text.index("\nclusters/")]
    rooms = re.findall(r"^  (\w+)/ +(.*(?:\n {18}.*)*)", the_map, re.MULTILINE)
    named = {(room, name) for room, words in rooms for name in re.findall(r"\w+", words)}
    modules = [path for path in (ROOT / "rtvi_actors").rglob("*.py") if "_pb2" not in path.stem and path.stem[0] != "_"]
    missing = [
        f"{path.parent.name}/{path.name}"
        for path in sorted(modules)
        if path.parent.name != "rtvi_actors" and (path.parent.name, path.stem) not in named
    ]
    assert not missing
    assert {room for room, _ in rooms} == {path.parent.name for path in modules} - {"rtvi_actors"}
