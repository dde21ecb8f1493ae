"""What a model keeps of its sessions' prompts, and who gets how much of a pass. Pure: told the time, the caches are opaque.

A session's next prompt begins like its last one: what was computed for that beginning is kept, and only the rest is computed. A new
session begins with instructions that others have, too: it takes the beginning of theirs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Cache = TypeVar("Cache")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Cache]):
    tokens: tuple[int, ...]
    cache: Cache
    size_bytes: int
    since_ms: int


class KeptCaches(Generic[Cache]):
    """One cache for each session, whoever was used longest ago first. A cache is never changed: what grows from it is a new one.

    Args:
        max_bytes: All caches together; beyond it those that were used longest ago are dropped.
        max_age_ms: A cache that was not put for so long is dropped.
    """

    def __init__(self, max_bytes: int, max_age_ms: int) -> None:
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_ms
        self._entries: OrderedDict[str, _Entry[Cache]] = OrderedDict()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Of all that is kept."""
        return self._size_bytes

    def longest(self, session: str, prompt: Sequence[int], now_ms: int) -> tuple[int, Cache | None]:
        """How many tokens of ``prompt`` a cache holds from its beginning on, and that cache: the session's own or another's.

        At least one token is left to compute, since what comes after it is asked for. (0, None) if there is nothing.
        """
        self.evict(now_ms)
        best, cache = 0, None
        # The own one is looked at first: it wins where others have as much.
        for _, entry in sorted(self._entries.items(), key=lambda item: item[0] != session):
            common = min(common_prefix(entry.tokens, prompt), len(prompt) - 1)
            if common > best:
                best, cache = common, entry.cache
        return best, cache

    def put(self, session: str, tokens: Sequence[int], cache: Cache, size_bytes: int, now_ms: int) -> None:
        """Keep ``cache``, which holds ``tokens``, instead of what the session had. One that is too big by itself is not kept."""
        self.forget(session)
        self._entries[session] = _Entry(tuple(tokens), cache, size_bytes, now_ms)
        self._size_bytes += size_bytes
        self.evict(now_ms)

    def forget(self, session: str) -> None:
        """The session ended."""
        if entry := self._entries.pop(session, None):
            self._size_bytes -= entry.size_bytes

    def evict(self, now_ms: int) -> None:
        """Drop what is too old, and the oldest while there is too much."""
        while self._entries:
            session, oldest = next(iter(self._entries.items()))
            if self._size_bytes <= self._max_bytes and now_ms - oldest.since_ms <= self._max_age_ms:
                return
            self.forget(session)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two have in common at their beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def shares(todo: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each prompt go into one padded pass. ``todo``: tokens that are left of each, in order of arrival.

    A padded pass costs its rows times its longest part. So all get the same part, and the pass costs ``budget`` at most; if there
    are more prompts than that, the first get one token each and the others wait.
    """
    part = max(1, budget // max(1, len(todo)))
    return [min(count, part) if at < budget else 0 for at, count in enumerate(todo)]
