"""The page of the configuration: every key is on it, with what it means, and the file of it is the one that is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rtvi_actors.cli.config_page import page
from rtvi_actors.cli.main import app
from rtvi_actors.config import Config

pytestmark = pytest.mark.unit

FILE = Path(__file__).parents[3] / "clusters" / "CONFIGURATION.md"


def rows(text: str) -> dict[str, list[str]]:
    """``section.key`` -> default, allowed, meaning."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line.strip("# `[]") + "."
        elif line.startswith("| `"):
            key, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            found[section + key.strip("`")] = cells
    return found


def keys(data: dict[str, Any], path: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in data.items():
        found |= keys(value, f"{path}{key}.") if isinstance(value, dict) and value else {path + key}
    return found


def test_every_key_is_there_and_told() -> None:
    told = rows(page())
    assert set(told) == keys(Config().to_dict())
    assert [key for key, (_, _, meaning) in told.items() if not meaning] == []


def test_defaults_and_limits_are_those_of_the_structs() -> None:
    told = rows(page())
    assert told["edge.port"][:2] == ["`7860`", "whole number from 0 to 65535"]
    assert told["edge.max_message_bytes"][:2] == ["`1200000`", "whole number from 4096 to 16777216"]
    assert told["app.log_format"][:2] == ['`"console"`', '"console", "json"']
    assert told["speaking.vad_threshold"][:2] == ["`0.5`", "number above 0 below 1"]
    assert told["llm.max_batch"][0] == "`8`"
    assert told["llm.max_batch"][2] != told["stt.max_batch"][2], "a section may tell a key that all engines have in its own words"


def test_the_file_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["config"])
    assert printed.exit_code == 0
    assert FILE.read_text(encoding="utf-8") == printed.stdout, f"rtvi-actors config > clusters/{FILE.name}"
