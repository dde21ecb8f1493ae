from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.runtime.mailbox import (
    AUDIO_WAITING_SAMPLES,
    CONTROL_WAITING_FRAMES,
    DATA_WAITING_BYTES,
    WINDOW_BYTES,
    CreditWindow,
    Outbox,
)

pytestmark = pytest.mark.unit

PIECE = 512


def pop_all(outbox: Outbox) -> list[bytes]:
    return outbox.pop(2**40)


class TestAudio:
    def test_the_newest_ten_seconds_stay(self) -> None:
        outbox = Outbox("data")
        for n in range(1_000):
            assert outbox.push("a", b"%03d" % n, PIECE) is None
        kept = AUDIO_WAITING_SAMPLES // PIECE
        assert len(outbox) == kept
        assert outbox.dropped_samples == (1_000 - kept) * PIECE
        assert outbox.dropped_frames == 1_000 - kept
        assert pop_all(outbox) == [b"%03d" % n for n in range(1_000 - kept, 1_000)]

    def test_sessions_do_not_count_together(self) -> None:
        outbox = Outbox("data")
        for n in range(31):
            outbox.push(f"s{n % 3}", b"x", AUDIO_WAITING_SAMPLES // 12)
        assert outbox.dropped_samples == 0
        assert len(outbox) == 31

    def test_other_frames_keep_their_place_between_dropped_audio(self) -> None:
        outbox = Outbox("data")
        outbox.push("a", b"old", AUDIO_WAITING_SAMPLES)
        outbox.push("a", b"may end")
        outbox.push("a", b"new", AUDIO_WAITING_SAMPLES)
        assert pop_all(outbox) == [b"may end", b"new"]

    def test_a_piece_longer_than_that_stays_when_it_is_the_newest(self) -> None:
        outbox = Outbox("data")
        outbox.push("a", b"old", 10)
        outbox.push("a", b"long", 2 * AUDIO_WAITING_SAMPLES)
        assert pop_all(outbox) == [b"long"]

    def test_holes_behind_a_frame_that_does_not_move_do_not_pile_up(self) -> None:
        outbox = Outbox("data")
        outbox.push("a", b"head")
        for _ in range(10_000):
            outbox.push("a", b"x", PIECE)
        queue = outbox._queues["a"]
        assert len(queue.order) <= 2 * len(outbox) + 17
        assert pop_all(outbox) == [b"head", *[b"x"] * (AUDIO_WAITING_SAMPLES // PIECE)]


class TestOverflow:
    def test_control_beyond_its_bound_ends_the_session(self) -> None:
        outbox = Outbox("control")
        outbox.push("b", b"other")
        for _ in range(CONTROL_WAITING_FRAMES):
            assert outbox.push("a", b"x") is None
        assert outbox.push("a", b"x") == "more than 256 control frames wait"
        assert pop_all(outbox) == [b"other"]
        assert outbox.dropped_frames == CONTROL_WAITING_FRAMES + 1

    def test_data_beyond_its_bound_ends_the_session(self) -> None:
        outbox = Outbox("data")
        part = bytes(DATA_WAITING_BYTES // 4)
        outbox.push("a", b"audio", PIECE)
        for _ in range(4):
            assert outbox.push("a", part) is None
        assert "bytes of data wait" in (outbox.push("a", b"x") or "")
        assert len(outbox) == 0
        assert outbox.size_bytes == 0

    def test_the_farewell_of_an_overflowed_session_still_passes(self) -> None:
        outbox = Outbox("control")
        for _ in range(CONTROL_WAITING_FRAMES + 1):
            outbox.push("a", b"x")
        assert outbox.push("a", b"detach") is None
        assert pop_all(outbox) == [b"detach"]


class TestDraining:
    def test_one_frame_of_each_session_in_turn(self) -> None:
        outbox = Outbox("data")
        for session, count in (("a", 4), ("b", 1), ("c", 2)):
            for n in range(count):
                outbox.push(session, f"{session}{n}".encode())
        assert pop_all(outbox) == [b"a0", b"b0", b"c0", b"a1", b"c1", b"a2", b"a3"]

    def test_the_turn_goes_on_in_the_next_pop(self) -> None:
        outbox = Outbox("data")
        for session in ("a", "b"):
            for n in range(2):
                outbox.push(session, f"{session}{n}".encode())
        assert [outbox.pop(1) for _ in range(5)] == [[b"a0"], [b"b0"], [b"a1"], [b"b1"], []]

    def test_the_limit_counts_but_one_frame_always_passes(self) -> None:
        outbox = Outbox("data")
        for size in (10, 4, 4, 4):
            outbox.push("a", bytes(size))
        assert [len(data) for data in outbox.pop(5)] == [10]
        assert [len(data) for data in outbox.pop(9)] == [4, 4]
        assert [len(data) for data in outbox.pop(9)] == [4]


PUSHES = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.integers(0, 9_000), st.integers(1, 1_500_000)),
        st.tuples(st.just("pop"), st.just(""), st.just(0), st.integers(1, 3_000_000)),
    ),
    max_size=60,
)


@given(PUSHES, st.sampled_from(["control", "data"]))
@settings(max_examples=100, deadline=None)
def test_order_and_bounds_hold_whatever_comes(steps: list[tuple[str, str, int, int]], lane: str) -> None:
    outbox = Outbox("control" if lane == "control" else "data")
    zeros = bytes(1_500_000)
    pushed, popped = 0, 0
    last_seen: dict[str, int] = defaultdict(lambda: -1)
    for number, (step, session, samples, size) in enumerate(steps):
        if step == "push":
            head = session.encode() + number.to_bytes(4, "big")
            outbox.push(session, head + zeros[:size], samples)
            pushed += 1
        else:
            for data in outbox.pop(size):
                popped += 1
                owner, place = chr(data[0]), int.from_bytes(data[1:5], "big")
                assert place > last_seen[owner]
                last_seen[owner] = place
        for queue in outbox._queues.values():
            assert queue.frames == sum(each.data is not None for each in queue.order) > 0
            assert queue.samples == sum(each.samples for each in queue.audio)
            assert queue.samples <= AUDIO_WAITING_SAMPLES or len(queue.audio) == 1
            assert lane == "control" or queue.other_bytes <= DATA_WAITING_BYTES
            assert lane == "data" or queue.frames <= CONTROL_WAITING_FRAMES
        assert pushed == popped + len(outbox) + outbox.dropped_frames


class TestCreditWindow:
    def test_full_until_given_back(self) -> None:
        window = CreditWindow(WINDOW_BYTES["bot_audio"])
        assert [window.take(1_920) for _ in range(51)] == [True] * 50 + [False]
        window.give(1_920)
        assert window.take(1_920)
        assert not window.take(1)

    def test_a_frame_larger_than_the_window_passes_alone(self) -> None:
        window = CreditWindow(100)
        assert window.take(500)
        assert not window.take(1)
        window.give(450)
        assert window.take(50)
        window.give(99)
        assert not window.take(500)
        window.give(1)
        assert window.take(500)

    def test_a_window_never_grows(self) -> None:
        window = CreditWindow(100)
        window.give(1_000)
        assert window.take(100)
        assert not window.take(1)

    @pytest.mark.parametrize("limit_bytes", [0, -1])
    def test_no_window(self, limit_bytes: int) -> None:
        with pytest.raises(ValueError, match="window"):
            CreditWindow(limit_bytes)

    @given(st.lists(st.tuples(st.booleans(), st.integers(1, 150))))
    def test_never_more_outstanding_than_the_window_or_one_frame(self, steps: list[tuple[bool, int]]) -> None:
        window = CreditWindow(100)
        outstanding = 0
        for is_take, size in steps:
            if is_take:
                passed = window.take(size)
                assert passed == (outstanding == 0 or outstanding + size <= 100)
                outstanding += size if passed else 0
            else:
                window.give(size)
                outstanding = max(0, outstanding - size)
            assert window.outstanding_bytes == outstanding
