from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models import conversion
from rtvi_actors.models.catalogue import CATALOGUE
from rtvi_actors.models.conversion import run_conversion

pytestmark = pytest.mark.unit

VOICE = next(model for model in CATALOGUE if model.name == "vits-joe")


def _fake_python(folder: Path, script: str) -> str:
    program = folder / "python"
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return str(program)


def test_tells_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """echo '{"done": 0.25, "text": "one"}'; echo '{"done": 0.5, "text": "two"}'; echo noise >&2\n"""
    monkeypatch.setattr(conversion.sys, "executable", _fake_python(tmp_path, script))
    steps: list[tuple[float, str]] = []
    run_conversion(VOICE, tmp_path, tmp_path, lambda done, text: steps.append((done, text)))
    assert steps == [(0.25, "one"), (0.5, "two")]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("""echo '{"error": "ConversionError: no voice"}'; exit 1""", "could not be converted: ConversionError: no voice"),
        ("echo first >&2; echo last >&2; exit 3", "could not be converted: last"),
        ("exit 3", "could not be converted: exit code 3"),
        ("kill -9 $$", "ended by signal 9"),
    ],
)
def test_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    monkeypatch.setattr(conversion.sys, "executable", _fake_python(tmp_path, script))
    with pytest.raises(ModelMissingError, match=message):
        run_conversion(VOICE, tmp_path, tmp_path, lambda done, text: None)


def test_the_process_itself_tells_errors(tmp_path: Path) -> None:
    unknown = dataclasses.replace(VOICE, name="unknown")
    with pytest.raises(ModelMissingError, match="AssertionError: unknown"):
        run_conversion(unknown, tmp_path, tmp_path, lambda done, text: None)
