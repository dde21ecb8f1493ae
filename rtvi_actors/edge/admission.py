"""How the edge gets a place for a session, without knowing who gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """A place for one session. ``route``: role -> names of the actors that play it, best first, as in the Attach frame."""

    session: str
    epoch: int
    route: dict[str, list[str]]
    bot: str


@dataclass(frozen=True, slots=True)
class Reserved:
    """A place at another edge. ``url``: that edge's, http."""

    token: str
    url: str


class Admission(Protocol):
    """The scheduler, seen from an edge."""

    async def admit(self) -> Lease:
        """Take a place. Nothing is made for it.

        Raises:
            CapacityError: none is free; says when to ask again.
        """

    async def reserve(self, bot: str, body: bytes) -> Reserved | None:
        """A place at another edge that has fewer sessions, kept for a client that asked this one; None if it had better stay here.

        ``bot`` and ``body`` are what the client wants, see ``Wanted``.
        """

    async def claim(self, token: str) -> tuple[Lease, str, bytes] | None:
        """The place that another edge keeps for ``token``, which is this edge's from now on, and the bot and body that its client
        wants. None: no edge knows the token.
        """

    async def release(self, session: str, *, clean: bool, used: bool = True) -> None:
        """Give the place back. ``clean``: all stages said that they hold nothing of the session any more. ``used``: they have
        heard of it.

        Must succeed however the session ended; repeating it is harmless.
        """

    async def move(self, session: str) -> Lease:
        """A second place for ``session``, at another stage group; :meth:`moved` must follow. Nothing is made for it.

        Raises:
            CapacityError: there is none, or the session is unknown.
        """

    async def moved(self, session: str, *, done: bool) -> None:
        """The session goes on in its second place, or else (not ``done``) in its first: the other one is free."""

    async def ready(self) -> None:
        """Return when a place could be had this moment.

        Raises:
            CapacityError: none could.
        """

    async def status(self) -> dict[str, Any]:
        """What the scheduler knows of the whole app: its sessions, engines, edges and capacity, as builtins.

        Raises:
            CapacityError: it does not answer.
        """
