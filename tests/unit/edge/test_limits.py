"""What a client may send: sizes, shapes of audio, messages per second, reports per second."""

import pytest

from rtvi_actors.edge.limits import MessageBudget, Problem, Throttle, check_audio, check_size

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("size", "ok"), [(0, True), (4_096, True), (4_097, False)])
def test_size(size: int, ok: bool) -> None:
    assert (check_size(size, 4_096) is None) is ok


@pytest.mark.parametrize(
    ("size", "rate_hz", "channels", "kind"),
    [
        (512, 16_000, 1, None),
        (0, 16_000, 1, None),
        (64_000, 16_000, 1, None),
        (64_002, 16_000, 1, "audio-piece"),
        (64_002, 16_000, 2, "audio-length"),
        (64_004, 16_000, 2, None),
        (32_002, 8_000, 1, "audio-piece"),
        (8, 8_000, 1, None),
        (8, 48_000, 2, None),
        (8, 7_999, 1, "audio-rate"),
        (8, 48_001, 1, "audio-rate"),
        (8, 0, 1, "audio-rate"),
        (8, 4_000_000_000, 1, "audio-rate"),
        (8, 16_000, 0, "audio-channels"),
        (8, 16_000, 3, "audio-channels"),
        (7, 16_000, 1, "audio-length"),
        (6, 16_000, 2, "audio-length"),
    ],
)
def test_audio(size: int, rate_hz: int, channels: int, kind: str | None) -> None:
    problem = check_audio(size, rate_hz, channels)
    assert (problem.kind if problem else None) == kind


def test_the_burst_of_a_connecting_client_passes_and_a_flood_does_not() -> None:
    budget = MessageBudget(100, now_ms=0)
    assert [budget.take(0) for _ in range(400)] == [None] * 400
    assert isinstance(budget.take(0), Problem)
    assert budget.dropped == 1


def test_messages_pass_again_at_the_given_rate() -> None:
    budget = MessageBudget(100, now_ms=0)
    while budget.take(0) is None:
        pass
    passed = sum(budget.take(now_ms) is None for now_ms in range(1_000) for _ in range(3))
    assert passed == 99  # one per 10 ms


def test_an_idle_client_saves_up_no_more_than_one_burst() -> None:
    budget = MessageBudget(100, now_ms=0)
    passed = sum(budget.take(3_600_000) is None for _ in range(1_000))
    assert passed == 400


def test_one_report_of_a_kind_per_second() -> None:
    throttle = Throttle()
    allowed = [now_ms for now_ms in range(0, 3_000, 100) if throttle.allow("malformed", now_ms)]
    assert allowed == [0, 1_000, 2_000]
    assert throttle.suppressed == 27
    assert throttle.allow("audio-rate", 2_900)
