"""Benchmarks as modules: they are programs, and no package has them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"

Program = Callable[[str], ModuleType]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """Gives a benchmark by its path without ``.py``, as it runs: its folder is the first place where modules are looked for.

    It is forgotten after the test.
    """

    def loaded(path: str) -> ModuleType:
        file = FOLDER / f"{path}.py"
        for folder in dict.fromkeys((FOLDER, file.parent)):
            monkeypatch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
        return module

    return loaded
