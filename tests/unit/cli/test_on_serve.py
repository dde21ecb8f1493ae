"""What Ray Serve starts: with a program in the place of the command line, and without Ray."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.cli.on_serve import Keeper
from rtvi_actors.errors import RtviActorsError

pytestmark = pytest.mark.unit

WELL: dict[str, Any] = {"url": "http://127.0.0.1:7", "edges": [{}], "draining": False}

PROGRAM = """
import pathlib, sys, time
folder, command = pathlib.Path(sys.argv[1]), sys.argv[2]
with (folder / "calls").open("a") as calls:
    print(*sys.argv[2:], file=calls)
if command == "serve" and (folder / "broken").exists():
    sys.exit(2)
if command == "serve":
    print("starting", flush=True)
    print("ready http://127.0.0.1:9", flush=True)
    while not (folder / "stopped").exists():
        time.sleep(0.01)
if command == "stop":
    (folder / "stopped").touch()
"""


class Machine:
    """A folder with a program, and what the scheduler would say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: dict[str, Any] | None = None
        (folder / "program.py").write_text(PROGRAM)
        (folder / "app.toml").write_text('[app]\nname = "shop"\n[scheduler]\ndrain_timeout_s = 7\n')

    def keeper(self) -> Keeper:
        program = (sys.executable, str(self.folder / "program.py"), str(self.folder))
        return Keeper(str(self.folder / "app.toml"), "10.0.0.1:6379", lambda: self.found, program)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_it_starts_the_app_watches_it_and_drains_it_in_the_end(machine: Machine) -> None:
    keeper = machine.keeper()
    assert keeper.url == "http://127.0.0.1:9"
    machine.found = WELL
    keeper.check()
    keeper.end()
    assert machine.calls() == ["serve", "drain", "stop"]
    text = (machine.folder / "calls").read_text()
    assert "drain --timeout 7 --app shop --address 10.0.0.1:6379" in text
    with pytest.raises(RtviActorsError, match="ended with 0"):
        keeper.check()


def test_an_app_that_runs_is_watched_and_ended_but_not_started(machine: Machine) -> None:
    machine.found = WELL
    keeper = machine.keeper()
    assert keeper.url == WELL["url"]
    keeper.check()
    keeper.end()
    assert machine.calls() == ["drain", "stop"]


@pytest.mark.parametrize("found", [{**WELL, "draining": True}, {**WELL, "edges": []}], ids=["draining", "no edge"])
def test_an_app_that_is_being_ended_is_replaced(machine: Machine, found: dict[str, Any]) -> None:
    machine.found = found
    program = PROGRAM.replace('(folder / "stopped").touch()', "pass")
    (machine.folder / "program.py").write_text(program)
    keeper = machine.keeper()
    assert machine.calls() == ["stop", "serve"]
    (machine.folder / "stopped").touch()
    keeper.end()


def test_an_app_that_is_not_well_is_told(machine: Machine) -> None:
    keeper = machine.keeper()
    with pytest.raises(RtviActorsError, match="does not answer"):
        keeper.check()
    machine.found = {**WELL, "edges": []}
    with pytest.raises(RtviActorsError, match="no edge"):
        keeper.check()
    keeper.end()


def test_an_app_that_does_not_start_is_an_error_at_once(machine: Machine) -> None:
    (machine.folder / "broken").touch()
    began = time.monotonic()
    with pytest.raises(RtviActorsError, match="ended with 2"):
        machine.keeper()
    assert time.monotonic() - began < 30
