"""Who gets a place: the table of stage groups and sessions, and the rules over it. Pure: no Ray, no clock of its own.

A *group* is four stage actors (speaking, STT, LLM, TTS). Its life here::

    (start wanted) -> starting -> ready -> retiring -> gone
                                    |  admits while it has free places

With ``sessions_per_group = 1`` a group serves one session and is retired with it, whatever it did: the next session finds a clean
process. Shared groups take a place back when the session's stages all said that they hold nothing any more; otherwise the group
is closed to new sessions and retired when its last session ends.

What :meth:`Admissions.admit` costs does not depend on how many groups there are: each edge has them ranked by their sessions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Literal

from rtvi_actors.config import Scheduler as Settings
from rtvi_actors.errors import CapacityError
from rtvi_actors.scheduler.ranking import Ranking

GroupState = Literal["starting", "ready", "retiring"]
Use = Literal["starting", "open", "used", "leaving", "over"]
"""What a group counts as: ``used`` is closed to new sessions and has some, ``leaving``: and they are to go elsewhere, ``over`` has
none or is being retired."""

RETRY_STARTING_MS = 2_000
"""What a refused client is told while a group is being started: about as long as one takes."""
RETRY_FULL_MS = 5_000
"""... and while all places are taken."""


@dataclass(slots=True)
class Group:
    """One group. ``closed``: it admits nobody any more. ``edges``: those whose links to it stand."""

    name: str
    number: int
    """Of two groups with as many sessions, the one with the lower number is filled first."""
    state: GroupState = "starting"
    closed: bool = False
    draining: bool = False
    """It is to end: a place that comes back unused does not open it again."""
    sessions: set[str] = field(default_factory=set)
    edges: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Place:
    """What a session holds."""

    session: str
    edge: str
    group: str
    since_ms: int


class OpenGroups:
    """The groups that admit sessions, of one edge or of all: the emptiest first. ``sessions``: how many they have together."""

    def __init__(self) -> None:
        self.sessions = 0
        self._ranking: Ranking[tuple[int, int]] = Ranking()

    def __len__(self) -> int:
        return len(self._ranking)

    def put(self, group: Group) -> None:
        """Have ``group`` with as many sessions as it has now."""
        self.drop(group)
        self._ranking.put(group.name, (len(group.sessions), group.number))
        self.sessions += len(group.sessions)

    def drop(self, group: Group) -> None:
        """Have it no more. Harmless where it is not here."""
        key = self._ranking.drop(group.name)
        if key is not None:
            self.sessions -= key[0]

    def emptiest(self) -> str | None:
        """Name of the group with the fewest sessions; None where there is no group."""
        return self._ranking.first()


class Admissions:
    """The one authority over places: K places give exactly K grants, however many ask at once.

    Callers run on one event loop, so each method is atomic.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._groups: dict[str, Group] = {}
        self._places: dict[str, Place] = {}
        self._moving: dict[str, str] = {}
        """Session -> the group that it is about to leave."""
        self._started = 0
        self._all_open = OpenGroups()
        self._open: defaultdict[str, OpenGroups] = defaultdict(OpenGroups)
        """Edge -> the groups that it can admit to."""
        self._uses: dict[str, Use] = {}
        """Group -> what it is counted as in ``_counts``."""
        self._counts: Counter[Use] = Counter()
        self.shared_groups = settings.warm_groups
        """How many shared groups there should be."""
        self.refused = 0
        self.granted = 0

    # ------------------------------------------------------------------------------------------------------- sessions

    def admit(self, session: str, edge: str, now_ms: int) -> Place:
        """Take a place for ``session`` on a group that ``edge`` has links to.

        Shared groups are filled one after the other's load: the emptiest first.

        Raises:
            CapacityError: no place; nothing was changed.
        """
        settings = self._settings
        if session in self._places:
            raise CapacityError(f"session {session} already has a place")
        if len(self._places) >= settings.max_sessions:
            self.refused += 1
            raise CapacityError(f"all {settings.max_sessions} sessions are in use", RETRY_FULL_MS)
        name = self._open[edge].emptiest() if edge in self._open else None
        if name is None:
            self.refused += 1
            detail = "a stage group is being started" if self._counts["starting"] else "no stage group is free"
            raise CapacityError(detail, RETRY_STARTING_MS)
        self.granted += 1
        return self._settle(Place(session, edge, name, now_ms))

    def release(self, session: str, *, clean: bool, used: bool = True) -> str | None:
        """Give a place back. Repeating it is harmless. A group whose place was not ``used`` is as good as new.

        Returns:
            the group that has to be retired now, or None.
        """
        place = self._places.pop(session, None)
        if place is None:
            return None
        group = self._groups.get(place.group)
        if group is None:
            return None
        group.sessions.discard(session)
        if not clean:
            group.closed = True
        elif not used and self._settings.sessions_per_group == 1 and group.state == "ready" and not group.draining:
            group.closed = False
        return self._retire_if_done(group)

    def hand_over(self, session: str, edge: str) -> Place | None:
        """``session`` is at ``edge`` from now on. None, and nothing changes: that has no links to its group, or it has no place."""
        place = self._places.get(session)
        if place is None or place.group not in self._groups or edge not in self._groups[place.group].edges:
            return None
        place = self._places[session] = replace(place, edge=edge)
        return place

    def move(self, session: str) -> Place:
        """Take a second place for ``session``, on another group that its edge has links to; :meth:`moved` gives one of both back.

        Raises:
            CapacityError: there is none, or the session has none to begin with, or is being moved; nothing was changed.
        """
        place = self._places.get(session)
        if place is None or session in self._moving:
            raise CapacityError(f"session {session} has no place, or is being moved")
        name = self._open[place.edge].emptiest() if place.edge in self._open else None
        if name is None or name == place.group:
            raise CapacityError("no other stage group is free", RETRY_STARTING_MS)
        self._moving[session] = place.group
        return self._settle(replace(place, group=name))

    def moved(self, session: str, *, done: bool) -> str | None:
        """``session`` goes on in its second place, if that is ``done``, else in its first. Repeating it is harmless.

        Returns:
            the group that has to be retired now, or None.
        """
        old = self._moving.pop(session, None)
        place = self._places.get(session)
        if old is None or place is None:
            return None
        given_back = old if done else place.group
        if not done:
            self._places[session] = replace(place, group=old)
        group = self._groups.get(given_back)
        if group is None:
            return None
        group.sessions.discard(session)
        return self._retire_if_done(group)

    def _settle(self, place: Place) -> Place:
        """Have ``place`` as its session's, and taken on its group."""
        group = self._groups[place.group]
        group.sessions.add(place.session)
        if self._settings.sessions_per_group == 1:
            group.closed = True
        self._index(group)
        self._places[place.session] = place
        return place

    def sessions_of_edge(self, edge: str) -> list[str]:
        """The sessions that ``edge`` holds."""
        return [place.session for place in self._places.values() if place.edge == edge]

    @property
    def taken(self) -> int:
        """How many sessions there are."""
        return len(self._places)

    def places(self) -> list[Place]:
        """All sessions, oldest first."""
        return sorted(self._places.values(), key=lambda place: place.since_ms)

    # --------------------------------------------------------------------------------------------------------- groups

    def wanted(self) -> int:
        """How many groups should be started now.

        Own groups: ``warm_groups`` unused ones, but never more than there may be sessions. Shared: ``shared_groups``.
        """
        settings = self._settings
        unused = self._counts["starting"] + self._counts["open"]
        if settings.sessions_per_group > 1:
            return max(0, self.shared_groups - unused)
        # Each session that is to go elsewhere needs a group of its own to come to.
        return max(0, max(min(settings.warm_groups, settings.max_sessions - self._counts["used"]), self.leaving) - unused)

    @property
    def leaving(self) -> int:
        """Groups with sessions that are to go elsewhere."""
        return self._counts["leaving"]

    def group_starting(self, name: str) -> None:
        """A group is being started; it counts for :meth:`wanted`."""
        self._started += 1
        group = self._groups[name] = Group(name, self._started)
        self._index(group)

    def group_ready(self, name: str, edges: set[str]) -> None:
        """All four actors are up and linked with ``edges``."""
        group = self._groups.get(name)
        if group is not None and group.state == "starting":
            group.state = "ready"
            group.edges = set(edges)
            self._index(group)

    def group_linked(self, name: str, edge: str) -> None:
        """``edge``, started later, has links to the group too."""
        if name in self._groups:
            self._groups[name].edges.add(edge)
            self._index(self._groups[name])

    def edge_gone(self, edge: str) -> None:
        """``edge`` is dead: nobody is admitted through it any more. Its sessions are released one by one by the caller."""
        self._open.pop(edge, None)
        for group in self._groups.values():
            group.edges.discard(edge)

    def group_draining(self, name: str) -> str | None:
        """Admit nobody more to the group; it is retired when its last session ends.

        Returns:
            the name, if that is now and the caller has to retire it.
        """
        group = self._groups.get(name)
        if group is None or group.state == "retiring":
            return None
        group.closed = group.draining = True
        if not group.sessions:
            group.state = "retiring"
        self._index(group)
        return None if group.sessions else name

    def group_broken(self, name: str) -> str | None:
        """A process of the group is gone or hangs: admit nobody more, retire it now, however many sessions it has.

        Returns:
            the name, if it has to be retired by the caller; None when it is unknown or already being retired.
        """
        group = self._groups.get(name)
        if group is None or group.state == "retiring":
            return None
        group.closed = True
        group.state = "retiring"
        self._index(group)
        return name

    def group_gone(self, name: str) -> list[str]:
        """The group's processes have ended. Returns the sessions that were still on it; their places are given back."""
        group = self._groups.pop(name, None)
        if group is None:
            return []
        group.state, group.closed = "retiring", True
        self._index(group)
        self._counts[self._uses.pop(name)] -= 1
        # One that moves away has its place elsewhere already, one that was to come stays where it was.
        for session in group.sessions & self._moving.keys():
            if self._places[session].group == name:
                self._places[session] = replace(self._places[session], group=self._moving[session])
            del self._moving[session]
        placed = {session: place.group for session in group.sessions if (place := self._places.get(session)) is not None}
        lost = sorted(session for session, where in placed.items() if where == name)
        for session in lost:
            self._places.pop(session, None)
        return lost

    def ready_groups(self) -> list[str]:
        """Names of the groups that are up."""
        return [group.name for group in self._groups.values() if group.state == "ready"]

    def free_places(self, edge: str | None = None) -> int:
        """How many sessions could be admitted this moment (through ``edge``)."""
        settings = self._settings
        groups = self._all_open if edge is None else self._open.get(edge)
        if groups is None:
            return 0
        in_groups = settings.sessions_per_group * len(groups) - groups.sessions
        return max(0, min(in_groups, settings.max_sessions - len(self._places)))

    def groups(self) -> list[Group]:
        """All groups, for status."""
        return list(self._groups.values())

    def _retire_if_done(self, group: Group) -> str | None:
        done = group.closed and not group.sessions and group.state == "ready"
        if done:
            group.state = "retiring"
        self._index(group)
        return group.name if done else None

    def _index(self, group: Group) -> None:
        """Count and rank the group anew: to be called after every change of it."""
        use = use_of(group)
        if group.name in self._uses:
            self._counts[self._uses[group.name]] -= 1
        self._counts[use] += 1
        self._uses[group.name] = use
        free = use == "open" and len(group.sessions) < self._settings.sessions_per_group
        for groups in (self._all_open, *[self._open[edge] for edge in group.edges]):
            if free:
                groups.put(group)
            else:
                groups.drop(group)


def use_of(group: Group) -> Use:
    """What the group counts as."""
    if group.state == "retiring":
        return "over"
    if group.closed:
        return ("leaving" if group.draining else "used") if group.sessions else "over"
    return "starting" if group.state == "starting" else "open"
