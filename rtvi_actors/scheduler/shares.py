"""Which replica of an engine a session asks first: the one with the fewest sessions. Pure.

A session stays with its replica while that one is up, since what was computed of its conversation lies there; the others are where
it goes when it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class EngineShares:
    """The sessions of each replica. ``kind`` is that of the engine: stt, llm, tts."""

    def __init__(self) -> None:
        self._first: dict[str, dict[str, str]] = {}
        """Session -> kind -> name of the replica that it asks first."""

    def take(self, session: str, replicas: Mapping[str, Mapping[str, bool]]) -> dict[str, list[str]]:
        """The order in which ``session`` asks the ``replicas`` (kind -> name -> whether it is up): the least used first.

        Those that are down come last, but are named: one that is being started again may be up when it is needed.
        """
        counts = self.counts()
        orders = {kind: sorted(up, key=lambda name: (not up[name], counts[name])) for kind, up in replicas.items()}
        self._first[session] = {kind: names[0] for kind, names in orders.items()}
        return orders

    def lost(self, name: str, others: list[str]) -> None:
        """The replica ``name`` is gone: its sessions go to ``others``, those of its kind that are up, or wait for it."""
        for firsts in self._first.values():
            for kind, first in firsts.items():
                if first == name and others:
                    counts = self.counts()
                    firsts[kind] = min(others, key=lambda other: counts[other])

    def give_back(self, session: str) -> None:
        """``session`` is over. Harmless if it never was."""
        self._first.pop(session, None)

    def counts(self) -> Counter[str]:
        """Name of a replica -> sessions that ask it first."""
        return Counter(name for firsts in self._first.values() for name in firsts.values())
