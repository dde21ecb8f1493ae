"""What a second signal means."""

from __future__ import annotations

import signal

import pytest

from rtvi_actors.cli.serve import StopRequest

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
