"""``rtvi-actors bench``: finds the programs, passes their options and exit codes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtvi_actors.cli import bench
from rtvi_actors.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared.py").write_text('"""What both need."""\n')
    (tmp_path / "speed.py").write_text(
        '"""How fast it is.\n\nMore."""\nimport sys\n\n\ndef main():\n    sys.exit(len(sys.argv) - 1)\n\n\nmain()\n'
    )
    return tmp_path


def test_programs_are_listed_by_their_first_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.programs(folder) == {"speed": "How fast it is."}
    assert bench.run(None, [], folder) == 0
    assert "speed           How fast it is." in capsys.readouterr().out


def test_options_and_exit_code_are_passed_on(folder: Path) -> None:
    assert bench.run("speed", ["--turns", "3"], folder) == 2


def test_an_unknown_name_tells_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no benchmark 'sped'; there are: speed"):
        bench.run("sped", [], folder)


def test_without_sources(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="source checkout"):
        bench.programs(tmp_path)


def test_the_checkout_has_its_benchmarks() -> None:
    assert {"voice_latency", "barge_in", "session_start", "frame_hop", "endpointing"} <= set(bench.programs())
