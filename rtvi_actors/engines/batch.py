"""Which of the waiting requests a model works on next. Pure: told the time, no threads.

The rule, in this order:

1. Take what waits. A lone request is never held back in the hope of company.
2. Urgent requests (a final) go before the others (an interim), however long those have waited, and never share a batch with them:
   nobody waits for an interim, and company makes a run longer.
3. Among equally urgent ones, those that have waited longer than ``max_age_ms`` go first, the oldest before all.
4. Sessions take turns: each gives one request before any gives its second. A session's own requests keep their order.
5. A batch holds at most ``max_batch`` requests, all of the ``shape`` of its first one, since one run of the model has one shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from rtvi_actors.errors import EngineTimeoutError

Item = TypeVar("Item")

MAX_WAITING = 256
"""Requests that may wait for one model; the next one is refused."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item]):
    ticket: int
    session: str
    item: Item
    since_ms: int
    urgent: bool
    shape: Hashable


class BatchQueue(Generic[Item]):
    """Requests of many sessions that wait for one model. Not safe for threads: its owner holds a lock.

    Args:
        max_batch: Most requests in one batch.
        max_age_ms: Wait from which a request goes before all younger ones that are as urgent.
        max_waiting: Most requests that wait; :meth:`put` refuses more.
    """

    def __init__(self, max_batch: int, max_age_ms: int = 1_000, max_waiting: int = MAX_WAITING) -> None:
        self._max_batch = max_batch
        self._max_age_ms = max_age_ms
        self._max_waiting = max_waiting
        self._sessions: dict[str, list[_Waiting[Item]]] = {}
        """Session -> its requests, oldest first. The session whose turn is next comes first; none is empty."""
        self._owners: dict[int, str] = {}
        """Ticket -> session, of all that wait."""
        self._last_ticket = 0

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def urgent(self) -> bool:
        """Whether an urgent request waits."""
        return any(waiting.urgent for session in self._sessions.values() for waiting in session)

    def put(self, session: str, item: Item, now_ms: int, *, urgent: bool = True, shape: Hashable = None) -> int:
        """Let ``item`` wait. Returns its ticket, for :meth:`withdraw`.

        Raises:
            EngineTimeoutError: ``max_waiting`` requests wait already.
        """
        if len(self._owners) >= self._max_waiting:
            raise EngineTimeoutError(f"the engine is overloaded: {len(self._owners)} requests wait for it")
        self._last_ticket += 1
        ticket = self._last_ticket
        waiting = _Waiting(ticket, session, item, now_ms, urgent, shape)
        self._sessions.setdefault(session, []).append(waiting)
        self._owners[ticket] = session
        return ticket

    def withdraw(self, ticket: int) -> bool:
        """Forget a waiting request. False if it does not wait (any more)."""
        session = self._owners.pop(ticket, None)
        if session is None:
            return False
        left = [waiting for waiting in self._sessions[session] if waiting.ticket != ticket]
        if left:
            self._sessions[session] = left
        else:
            del self._sessions[session]
        return True

    def take(self, now_ms: int) -> list[Item]:
        """Remove and return the next batch; [] if nothing waits."""
        batch: list[_Waiting[Item]] = []
        for waiting in self._in_order(now_ms):
            if len(batch) == self._max_batch:
                break
            if not batch or (waiting.shape, waiting.urgent) == (batch[0].shape, batch[0].urgent):
                batch.append(waiting)
        for waiting in batch:
            self.withdraw(waiting.ticket)
            self._to_the_end(waiting.session)
        return [waiting.item for waiting in batch]

    def take_all(self) -> list[Item]:
        """Remove and return everything, in order of arrival: the model is gone."""
        everything = sorted((w for waiting in self._sessions.values() for w in waiting), key=lambda w: w.ticket)
        self._sessions.clear()
        self._owners.clear()
        return [waiting.item for waiting in everything]

    def _in_order(self, now_ms: int) -> Iterator[_Waiting[Item]]:
        for urgent in (True, False):
            rows = [[waiting for waiting in session if waiting.urgent is urgent] for session in self._sessions.values()]
            overdue = sorted((w for row in rows for w in row if now_ms - w.since_ms > self._max_age_ms), key=lambda w: w.ticket)
            yield from overdue
            seen = {waiting.ticket for waiting in overdue}
            rest = [[waiting for waiting in row if waiting.ticket not in seen] for row in rows]
            for depth in range(max(map(len, rest), default=0)):
                yield from (row[depth] for row in rest if depth < len(row))

    def _to_the_end(self, session: str) -> None:
        waiting = self._sessions.pop(session, None)
        if waiting is not None:
            self._sessions[session] = waiting
