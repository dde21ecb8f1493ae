"""The actors' lines on stderr: as they wrote them, and nothing of Ray's daemons."""

from __future__ import annotations

import json

import pytest

from rtvi_actors.cli import actor_log

pytestmark = pytest.mark.unit


def test_lines_of_actors_are_shown_and_of_daemons_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    actor_log.show({"pid": 12, "lines": ["WARNING app/tts/0: late", "second"]})
    actor_log.show({"pid": "raylet", "lines": ["A worker died or was killed"]})
    shown = capfd.readouterr()
    assert shown.err.splitlines() == ["WARNING app/tts/0: late", "second"]
    assert shown.out == ""


def test_all_lines_are_json_where_they_are_to_be(capfd: pytest.CaptureFixture[str]) -> None:
    own = '{"event":"hello","session":"s1"}'
    lines = [own, "Traceback (most recent call last):", "{not json", '"text"', "[1]"]
    actor_log.show({"pid": 12, "actor_name": "app/tts/0", "lines": lines}, actor_log._as_json)
    shown = capfd.readouterr().err.splitlines()
    assert shown[0] == own
    assert [json.loads(line)["event"] for line in shown[1:]] == lines[1:]
    assert {json.loads(line)["actor"] for line in shown[1:]} == {"app/tts/0"}


def test_rays_own_printing_is_replaced() -> None:
    from ray._private import worker
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    before = list(dispatcher.handlers)
    try:
        dispatcher.add_handler("ray_print_logs", print)
        actor_log.take_over()
        assert [handler for name, handler in dispatcher.handlers if name == "ray_print_logs"] == [actor_log.show]
        assert worker._worker_logs_enabled is False
    finally:
        dispatcher.handlers = before
        worker._worker_logs_enabled = True
