"""Names in the order of keys that change all the time. Pure.

Finding the first and changing a key cost the logarithm of how many there are: the scheduler asks for the emptiest of 10,000 groups
at each admission, and for the best of 1,000 nodes at each placement.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=tuple[float, ...])

SPARE_ENTRIES = 64
"""Old entries are cleared away when they are more than the living ones and this."""


class Ranking(Generic[Key]):
    """Name -> key, the smallest key first. Keys must differ: end them with a number of the name's own.

    It is a heap whose old entries stay until they come to its top, or are too many.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Key, str]] = {}
        self._heap: list[tuple[Key, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def key(self, name: str) -> Key:
        """The key of ``name``. Raises KeyError where it is not ranked."""
        return self._entries[name][0]

    def put(self, name: str, key: Key) -> None:
        """Rank ``name`` by ``key``, instead of the one that it had."""
        old = self._entries.get(name)
        if old is not None and old[0] == key:
            return
        entry = self._entries[name] = (key, name)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + SPARE_ENTRIES:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def drop(self, name: str) -> Key | None:
        """Rank ``name`` no more. Returns the key that it had, None where it was not ranked."""
        entry = self._entries.pop(name, None)
        return None if entry is None else entry[0]

    def first(self) -> str | None:
        """The name with the smallest key; None where there is none."""
        heap = self._heap
        while heap:
            entry = heap[0]
            if self._entries.get(entry[1]) is entry:
                return entry[1]
            heapq.heappop(heap)
        return None
