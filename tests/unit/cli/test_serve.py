"""What a second signal means, and how the end of the app looks to the process that started it."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rtvi_actors.cli import serve
from rtvi_actors.cli.serve import App, StopRequest
from rtvi_actors.errors import SessionLostError

pytestmark = pytest.mark.unit


def test_a_second_signal_ends_the_process() -> None:
    stop = StopRequest()
    stop.take(signal.SIGTERM, None)
    assert (stop.is_set(), stop.by) == (True, signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        stop.take(signal.SIGINT, None)
    assert ended.value.code == 130


def test_while_draining_it_ends_the_wait_and_only_a_third_one_the_process() -> None:
    stop = StopRequest()
    stop.take(signal.SIGTERM, None)
    stop.draining = True
    stop.take(signal.SIGTERM, None)
    assert not stop.draining
    with pytest.raises(SystemExit):
        stop.take(signal.SIGTERM, None)


class FakeRay:
    """Two references, both done: the app's end, and a ping, which fails as the scheduler has ended. ``scheduler`` gives them."""

    exceptions = ray.exceptions

    def __init__(self, *failed: str) -> None:
        self.failed = failed
        calls = {name: SimpleNamespace(remote=lambda name=name: name) for name in ("run_until_stopped", "ping")}
        self.scheduler = SimpleNamespace(**calls)

    def wait(self, references: list[str], **_: Any) -> tuple[list[str], list[str]]:
        return references, []

    def get(self, references: str | list[str]) -> None:
        if set(self.failed) & ({references} if isinstance(references, str) else set(references)):
            raise ray.exceptions.RayActorError


def test_an_app_that_somebody_stopped_has_ended_well_though_its_scheduler_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay("ping")
    monkeypatch.setattr(serve, "ray", fake)
    App("http://127.0.0.1:1", fake.scheduler, StopRequest()).wait()


def test_a_scheduler_that_died_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay("ping", "run_until_stopped")
    monkeypatch.setattr(serve, "ray", fake)
    with pytest.raises(SessionLostError):
        App("http://127.0.0.1:1", fake.scheduler, StopRequest()).wait()
