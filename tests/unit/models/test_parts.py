from __future__ import annotations

from pathlib import Path

import pytest

from rtvi_actors.models.parts import join

pytestmark = pytest.mark.unit


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("model.bin.part1", "model.bin.part2", "config.json"):
        (source / name).write_bytes(name.encode())
    return source, target


def test_parts_become_one_file(folders: tuple[Path, Path]) -> None:
    source, target = folders
    join([source / "model.bin.part1", source / "config.json", source / "model.bin.part2"], target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        "model.bin": b"model.bin.part1model.bin.part2",
        "config.json": b"config.json",
    }


@pytest.mark.parametrize("names", [["model.bin.part2", "model.bin.part1"], ["config.json", "config.json"]])
def test_parts_in_another_order_are_refused(folders: tuple[Path, Path], names: list[str]) -> None:
    source, target = folders
    with pytest.raises(ValueError, match="comes after"):
        join([source / name for name in names], target)
