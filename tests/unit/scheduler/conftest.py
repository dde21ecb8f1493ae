"""How much Python a call runs: a measure that no other load of the machine changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

LinesRun = Callable[[Callable[[], Any]], int]


@pytest.fixture
def lines_run() -> LinesRun:
    """Gives how many lines a call executes, in all functions that it calls."""

    def counted(work: Callable[[], Any]) -> int:
        count = 0

        def on_event(_frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal count
            count += event == "line"
            return on_event

        before = sys.gettrace()
        sys.settrace(on_event)
        try:
            work()
        finally:
            sys.settrace(before)
        return count

    return counted
