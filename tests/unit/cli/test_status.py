"""What ``rtvi-actors status`` prints."""

from __future__ import annotations

from typing import Any

import pytest

from rtvi_actors.cli import status

pytestmark = pytest.mark.unit

FACTS: dict[str, Any] = {
    "app": "shop",
    "url": "http://127.0.0.1:7860",
    "draining": False,
    "capacity": {"sessions": 0, "max_sessions": 4, "free": 2, "granted": 7, "refused": 1},
    "sessions": [],
    "engines": [],
    "edges": [],
    "groups": [{"name": "0", "state": "ready", "sessions": 0}],
    "figures": {
        "stt": {"processes": 2.0, "memory_bytes": 120 * 2**20, "cpu_s": 3.25, "loop_lag_s": 0.004, "stalls": 1.0},
        "engine/stt": {
            "processes": 1.0,
            "memory_bytes": 2**30,
            "cpu_s": 9.0,
            "loop_lag_s": 0.0,
            "stalls": 0.0,
            "engine_in_flight": 3.0,
        },
        "speaking": {"cpu_s": 1.0, "stalls": 0.0},
    },
}


def test_processes_are_shown_by_role(capsys: pytest.CaptureFixture[str]) -> None:
    status._print(FACTS)
    rows = {line.split()[1]: line.split()[2:] for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    numbers = {role: [word for word in row if word not in ("│", "MiB", "s", "ms", "in", "flight")] for role, row in rows.items()}
    assert numbers["stt"] == ["2", "120", "3.2", "4", "1"]
    assert numbers["engine/stt"] == ["1", "1024", "9.0", "0", "0", "3"]
    assert numbers["speaking"] == ["0", "0", "1.0", "0", "0"]


def test_an_app_that_has_not_been_asked_yet_has_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    status._print({**FACTS, "figures": {}})
    assert "by role" not in capsys.readouterr().out
