import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rtvi_actors.edge.reads import Reads

pytestmark = pytest.mark.unit


class Seen(list[tuple[str, bytes]]):
    """What was taken, and of whom."""

    def of(self, name: str) -> Callable[[bytes], None]:
        return lambda data: self.append((name, data))


async def test_what_comes_after_a_pause_is_taken_at_once_and_what_follows_together(until: Any) -> None:
    reads, seen = Reads(), Seen()
    reads.add(seen.of("a"), b"1")
    assert seen == [("a", b"1")]
    for name, data in (("b", b"2"), ("a", b"3"), ("b", b"4")):
        reads.add(seen.of(name), data)
    assert seen == [("a", b"1")]
    await until(lambda: len(seen) > 1)
    assert seen == [("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", b"4")]


async def test_whoever_leaves_need_not_wait() -> None:
    reads, seen = Reads(), Seen()
    reads.add(seen.of("a"), b"1")
    reads.add(seen.of("a"), b"2")
    reads.look()
    assert seen == [("a", b"1"), ("a", b"2")]
    await asyncio.sleep(0.02)
    assert len(seen) == 2


async def test_a_client_whose_bytes_cannot_be_taken_disturbs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: bytes) -> None:
        raise ValueError("no")

    reads, seen = Reads(), Seen()
    reads.add(seen.of("a"), b"1")
    reads.add(fail, b"2")
    reads.add(seen.of("a"), b"3")
    reads.look()
    assert seen == [("a", b"1"), ("a", b"3")]
    assert "1 bytes of a client" in caplog.text
