import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.engines.batch import BatchQueue
from rtvi_actors.errors import EngineTimeoutError

pytestmark = pytest.mark.unit


def filled(items: str, max_batch: int = 4, **options: int) -> BatchQueue[str]:
    """``"a1 b1"``: session a waits with a1, b with b1, all since 0. Upper case is not urgent."""
    queue: BatchQueue[str] = BatchQueue(max_batch, **options)
    for item in items.split():
        queue.put(item[0].lower(), item, 0, urgent=item[0].islower())
    return queue


def test_a_lone_request_is_taken_at_once():
    queue = filled("a1")
    assert queue.take(0) == ["a1"]
    assert queue.take(0) == []
    assert len(queue) == 0


def test_what_waits_is_taken_up_to_the_size():
    queue = filled("a1 b1 c1 d1 e1", max_batch=3)
    assert queue.take(0) == ["a1", "b1", "c1"]
    assert queue.take(0) == ["d1", "e1"]


def test_sessions_take_turns():
    queue = filled("a1 a2 a3 a4 b1 c1", max_batch=2)
    assert queue.take(0) == ["a1", "b1"]
    assert queue.take(0) == ["c1", "a2"]
    assert queue.take(0) == ["a3", "a4"]


def test_a_session_that_asks_again_stands_behind_the_others():
    queue = filled("a1 b1 c1", max_batch=1)
    assert queue.take(0) == ["a1"]
    queue.put("a", "a2", 0)
    assert [queue.take(0)[0] for _ in range(3)] == ["b1", "c1", "a2"]


def test_urgent_goes_first():
    queue = filled("A1 B1 a2 c1", max_batch=2)
    assert queue.take(0) == ["a2", "c1"]
    assert sorted(queue.take(0)) == ["A1", "B1"]


def test_what_is_not_urgent_never_rides_along_and_never_overtakes():
    queue = filled("A1 b1", max_age_ms=100)
    assert queue.urgent
    assert queue.take(10_000) == ["b1"]
    assert not queue.urgent
    assert queue.take(10_000) == ["A1"]


@pytest.mark.parametrize("urgent", [True, False])
def test_the_overdue_goes_before_the_younger_and_the_oldest_before_all(urgent):
    queue: BatchQueue[str] = BatchQueue(2, max_age_ms=100)

    def fill():
        queue.put("c", "young", 140, urgent=urgent)
        queue.put("a", "oldest", 0, urgent=urgent)
        queue.put("b", "old", 50, urgent=urgent)

    fill()
    assert queue.take(100) == ["young", "oldest"], "100 ms are not more than 100 ms"
    assert queue.take(100) == ["old"]
    fill()
    assert queue.take(151) == ["oldest", "old"]


def test_a_batch_has_one_shape_and_the_other_is_next():
    queue: BatchQueue[str] = BatchQueue(4)
    for session, shape in (("a", 10), ("b", 30), ("c", 10), ("d", 30)):
        queue.put(session, f"{session}{shape}", 0, shape=shape)
    assert queue.take(0) == ["a10", "c10"]
    assert queue.take(0) == ["b30", "d30"]


def test_a_withdrawn_request_is_not_taken():
    queue: BatchQueue[str] = BatchQueue(4)
    first, second = queue.put("a", "a1", 0), queue.put("a", "a2", 0)
    assert queue.withdraw(first)
    assert not queue.withdraw(first)
    assert queue.take(0) == ["a2"]
    assert not queue.withdraw(second)


def test_a_full_queue_refuses():
    queue = filled("a1 b1", max_waiting=2)
    with pytest.raises(EngineTimeoutError, match="2 requests wait") as caught:
        queue.put("c", "c1", 0)
    assert caught.value.retryable
    assert len(queue) == 2


def test_everything_in_order_of_arrival():
    queue = filled("b1 a1 b2 A2")
    assert queue.take_all() == ["b1", "a1", "b2", "A2"]
    assert len(queue) == 0


requests = st.tuples(st.sampled_from("abcd"), st.booleans(), st.sampled_from([10, 30]))


@given(st.lists(requests, max_size=40), st.integers(1, 5), st.integers(0, 50))
def test_all_come_out_once_and_a_sessions_own_equals_keep_their_order(arrivals, max_batch, age_ms):
    queue: BatchQueue[tuple[int, str, bool, int]] = BatchQueue(max_batch, max_age_ms=age_ms)
    for at, (session, urgent, shape) in enumerate(arrivals):
        queue.put(session, (at, session, urgent, shape), at, urgent=urgent, shape=shape)
    out = []
    while batch := queue.take(len(arrivals)):
        assert len(batch) <= max_batch
        assert len({(urgent, shape) for _, _, urgent, shape in batch}) == 1
        out += batch
    assert sorted(at for at, *_ in out) == list(range(len(arrivals)))
    for kind in {item[1:] for item in out}:
        same = [at for at, *rest in out if tuple(rest) == kind]
        assert same == sorted(same)


@given(st.lists(st.sampled_from("aaaaab"), min_size=2, max_size=60), st.integers(1, 4))
def test_no_session_is_starved_by_a_greedy_one(arrivals, max_batch):
    queue: BatchQueue[str] = BatchQueue(max_batch, max_age_ms=10**9)
    waits = 0
    for session in arrivals:
        queue.put(session, session, 0)
        waiting = "b" in arrivals and session == "b"
        batch = queue.take(0)
        waits = waits + 1 if waiting and "b" not in batch else 0
        assert waits <= 1
