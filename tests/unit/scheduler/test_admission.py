"""The table of places: K places give exactly K grants, whatever happens to groups meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rtvi_actors.config import Scheduler
from rtvi_actors.errors import CapacityError
from rtvi_actors.scheduler.admission import RETRY_FULL_MS, RETRY_STARTING_MS, Admissions

pytestmark = pytest.mark.unit

EDGE = "app/edge/0"


def table(*groups: str, **settings: int) -> Admissions:
    result = Admissions(Scheduler(**settings))
    for name in groups:
        result.group_starting(name)
        result.group_ready(name, {EDGE})
    return result


def test_own_groups_are_used_once() -> None:
    admissions = table("0", "1", warm_groups=2, max_sessions=4)
    place = admissions.admit("a", EDGE, 0)
    assert admissions.release("a", clean=True) == place.group
    assert admissions.admit("b", EDGE, 1).group != place.group
    assert admissions.group_gone(place.group) == []


def test_an_own_group_that_was_not_used_serves_the_next() -> None:
    admissions = table("0", warm_groups=1, max_sessions=2)
    admissions.admit("a", EDGE, 0)
    assert admissions.release("a", clean=True, used=False) is None
    assert admissions.admit("b", EDGE, 1).group == "0"
    assert admissions.group_broken("0") == "0"
    assert admissions.release("b", clean=True, used=False) is None
    with pytest.raises(CapacityError):
        admissions.admit("c", EDGE, 2)


def test_a_refusal_changes_nothing_and_says_when_to_ask_again() -> None:
    admissions = table("0", warm_groups=1, max_sessions=2)
    admissions.admit("a", EDGE, 0)
    with pytest.raises(CapacityError) as refusal:
        admissions.admit("b", EDGE, 0)
    assert refusal.value.retry_after_ms == RETRY_STARTING_MS
    assert [place.session for place in admissions.places()] == ["a"]
    full = table("0", "1", warm_groups=2, max_sessions=1)
    full.admit("a", EDGE, 0)
    with pytest.raises(CapacityError) as refusal:
        full.admit("b", EDGE, 0)
    assert refusal.value.retry_after_ms == RETRY_FULL_MS


def test_shared_groups_fill_evenly_and_take_places_back() -> None:
    admissions = table("0", "1", sessions_per_group=2, warm_groups=2, max_sessions=4)
    assert sorted(admissions.admit(name, EDGE, 0).group for name in "abcd") == ["0", "0", "1", "1"]
    with pytest.raises(CapacityError):
        admissions.admit("e", EDGE, 0)
    assert admissions.release("a", clean=True) is None
    admissions.admit("e", EDGE, 0)


def test_a_shared_group_that_a_stage_did_not_leave_clean_is_retired_when_empty() -> None:
    admissions = table("0", sessions_per_group=2, warm_groups=1, max_sessions=2)
    admissions.admit("a", EDGE, 0)
    admissions.admit("b", EDGE, 0)
    assert admissions.release("a", clean=False) is None
    assert admissions.wanted() == 1
    with pytest.raises(CapacityError):
        admissions.admit("c", EDGE, 0)
    assert admissions.release("b", clean=True) == "0"


def test_a_broken_group_is_retired_once_and_its_sessions_are_lost() -> None:
    admissions = table("0", "1", warm_groups=2, max_sessions=4)
    place = admissions.admit("a", EDGE, 0)
    assert admissions.group_broken(place.group) == place.group
    assert admissions.group_broken(place.group) is None
    assert admissions.group_gone(place.group) == ["a"]
    assert admissions.release("a", clean=False) is None
    assert admissions.wanted() == 1


def test_only_groups_linked_with_the_edge_count() -> None:
    admissions = table("0", warm_groups=1, max_sessions=2)
    with pytest.raises(CapacityError):
        admissions.admit("a", "app/edge/1", 0)
    admissions.group_linked("0", "app/edge/1")
    assert admissions.free_places("app/edge/1") == 1
    admissions.edge_gone(EDGE)
    assert admissions.free_places(EDGE) == 0


def test_a_draining_group_keeps_its_sessions_and_is_retired_with_the_last() -> None:
    admissions = table("0", "1", sessions_per_group=2, warm_groups=2, max_sessions=4)
    for name in "abc":
        admissions.admit(name, EDGE, 0)
    assert admissions.group_draining("0") is None
    assert admissions.free_places(EDGE) == 1
    assert admissions.admit("d", EDGE, 0).group == "1"
    assert [admissions.release(name, clean=True) for name in "ac"] == [None, "0"]
    assert admissions.group_draining("0") is None, "it is being retired already"
    assert admissions.group_draining("2") is None, "there is none of that name"


def test_a_draining_group_without_sessions_is_retired_now() -> None:
    admissions = table("0", warm_groups=2, max_sessions=4)
    admissions.group_starting("1")
    assert [admissions.group_draining(name) for name in "01"] == ["0", "1"]
    admissions.group_ready("1", {EDGE})
    assert admissions.free_places() == 0
    assert admissions.wanted() == 2


def test_an_unused_place_does_not_open_a_draining_group_again() -> None:
    admissions = table("0", warm_groups=1, max_sessions=2)
    admissions.admit("a", EDGE, 0)
    assert admissions.group_draining("0") is None
    assert admissions.release("a", clean=True, used=False) == "0"


@pytest.mark.parametrize(("used", "wanted"), [(0, 2), (1, 2), (2, 2), (3, 1), (4, 0)])
def test_the_pool_keeps_warm_groups_up_to_the_most_sessions(used: int, wanted: int) -> None:
    admissions = table(*(str(number) for number in range(used)), warm_groups=2, max_sessions=4)
    for number in range(used):
        admissions.admit(str(number), EDGE, 0)
    assert admissions.wanted() == wanted


class Churn(RuleBasedStateMachine):
    """Any order of events: never more sessions than places, no place lost, the pool always wants to come back."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Scheduler(sessions_per_group=1, warm_groups=2, max_sessions=3)
        self.table = Admissions(self.settings)
        self.count = 0
        self.live: dict[str, str] = {}

    @rule()
    def start(self) -> None:
        if self.table.wanted():
            self.count += 1
            self.table.group_starting(str(self.count))

    @rule()
    def become_ready(self) -> None:
        for group in self.table.groups():
            self.table.group_ready(group.name, {EDGE})

    @rule()
    def connect(self) -> None:
        self.count += 1
        session = f"s{self.count}"
        free = self.table.free_places(EDGE)
        try:
            self.live[session] = self.table.admit(session, EDGE, self.count).group
            assert free > 0
        except CapacityError:
            assert free == 0

    @rule(clean=st.booleans(), used=st.booleans())
    def leave(self, clean: bool, used: bool) -> None:
        if self.live:
            session, group = self.live.popitem()
            if self.table.release(session, clean=clean, used=used) is not None:
                assert self.table.group_gone(group) == []

    @rule()
    def crash(self) -> None:
        for group in self.table.groups()[:1]:
            if self.table.group_broken(group.name):
                for session in self.table.group_gone(group.name):
                    del self.live[session]

    @invariant()
    def counts_agree(self) -> None:
        assert {place.session for place in self.table.places()} == set(self.live)
        assert len(self.live) <= self.settings.max_sessions
        groups = list(self.live.values())
        assert len(groups) == len(set(groups)), "an own group serves one session"

    def teardown(self) -> None:
        while self.live:
            self.leave(True, True)
        while self.table.wanted():
            self.start()
        self.become_ready()
        # Groups that come back unused may be more than those that are kept warm, never more than there may be sessions.
        assert self.settings.warm_groups <= self.table.free_places(EDGE) <= self.settings.max_sessions


TestChurn = Churn.TestCase
TestChurn.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    st.integers(1, 3), st.integers(1, 12), st.lists(st.integers(0, 9), min_size=1, max_size=120), st.randoms(use_true_random=False)
)
def test_each_place_is_given_once_and_the_emptiest_group_s_first(
    per_group: int, most: int, events: list[int], chance: random.Random
) -> None:
    """Against the plain rule: look at all groups."""
    admissions = Admissions(Scheduler(sessions_per_group=per_group, max_sessions=most))
    edges = ("x", "y", "z")
    live: list[str] = []
    for at, event in enumerate(events):
        name, edge = str(at), chance.choice(edges)
        groups = admissions.groups()
        if event < 2:
            admissions.group_starting(name)
            admissions.group_ready(name, set(chance.sample(edges, chance.randint(0, 3))))
        elif event == 2 and groups:
            admissions.group_linked(chance.choice(groups).name, edge)
        elif event == 3:
            admissions.edge_gone(edge)
        elif event == 4 and live:
            admissions.release(live.pop(chance.randrange(len(live))), clean=chance.random() < 0.8, used=chance.random() < 0.5)
        elif event == 5 and groups:
            group = chance.choice(groups).name
            if admissions.group_broken(group) or chance.random() < 0.3:
                gone = admissions.group_gone(group)
                live = [session for session in live if session not in gone]
        else:
            fitting = [g for g in groups if g.state == "ready" and not g.closed and edge in g.edges and len(g.sessions) < per_group]
            places = min(most - len(live), sum(per_group - len(group.sessions) for group in fitting))
            assert admissions.free_places(edge) == places
            if not places:
                with pytest.raises(CapacityError):
                    admissions.admit(name, edge, at)
                continue
            best = min(fitting, key=lambda group: len(group.sessions)).name
            assert admissions.admit(name, edge, at).group == best
            live.append(name)
    assert sorted(place.session for place in admissions.places()) == sorted(live)
    assert admissions.taken == len(live)


def test_an_admission_costs_the_same_with_many_groups(lines_run: Callable[[Callable[[], Any]], int]) -> None:
    def work(groups: int) -> int:
        admissions = table(*map(str, range(groups)), sessions_per_group=4, warm_groups=groups, max_sessions=4 * groups)

        def run() -> None:
            for number in range(50):
                admissions.admit(str(number), EDGE, number)
                assert admissions.free_places(EDGE) < 4 * groups
                assert admissions.wanted() == 0
                admissions.release(str(number), clean=True)

        return lines_run(run)

    assert work(2_000) < 1.5 * work(20)
