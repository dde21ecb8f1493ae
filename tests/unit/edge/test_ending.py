"""When a session ends by itself: the core alone, its timer kept by the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rtvi_actors.config import Session as Settings
from rtvi_actors.edge.ending import PROMPT_WAIT_MS, SETTLE_MS, Deafen, End, EndBy, Ending, Leave, Prompt, Seen, Tick, WakeAt, Warn

pytestmark = pytest.mark.unit

BYE = Leave("disconnect-bot", "The client asked for it.")


class Clock:
    """An Ending with its timer, from 1,000 ms on. ``done``: (time, command), WakeAt left out."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1_000
        self.done: list[tuple[int, Any]] = []
        self._ending = Ending(Settings(**settings), self.now)
        self._wake: int | None = None
        self.seen = Seen()
        self.give(Tick())

    def give(self, event: Any) -> None:
        commands = self._ending.handle(event, self.now)
        wakes = [command.at_ms for command in commands if isinstance(command, WakeAt)]
        assert len(wakes) <= 1
        assert all(at_ms >= self.now for at_ms in wakes)
        self._wake = wakes[0] if wakes else None
        self.done += [(self.now, command) for command in commands if not isinstance(command, WakeAt)]

    def see(self, **changes: Any) -> None:
        self.seen = replace(self.seen, **changes)
        self.give(self.seen)

    def wait(self, ms: int) -> None:
        """Let time pass; the timer rings when it is due."""
        until = self.now + ms
        for _ in range(100):
            if self._wake is None or self._wake > until:
                self.now = until
                return
            self.now = self._wake
            self.give(Tick())
        raise AssertionError("the timer never stops to ring")

    def commands(self, *kinds: type) -> list[tuple[int, Any]]:
        return [(at_ms - 1_000, command) for at_ms, command in self.done if isinstance(command, kinds)]

    @property
    def end(self) -> tuple[int, str] | None:
        """When, counted from the start, and why."""
        found = self.commands(End)
        assert len(found) <= 1
        return (found[0][0], found[0][1].reason) if found else None


# ---------------------------------------------------------------------------------------------------------------- silence


def test_a_silence_ends_the_session() -> None:
    clock = Clock(idle_end_after_ms=60_000)
    clock.wait(59_999)
    assert clock.done == []
    clock.wait(1)
    assert clock.commands(End) == [(60_000, End("idle", "Nobody said anything for 1 min."))]


@pytest.mark.parametrize("who", ["user", "bot", "waiting"])
def test_a_silence_counts_from_the_last_that_was_said(who: str) -> None:
    clock = Clock(idle_end_after_ms=60_000)
    clock.wait(50_000)
    clock.see(**{who: True})
    clock.wait(200_000)
    assert clock.end is None
    clock.see(**{who: False})
    clock.wait(200_000)
    assert clock.end == (310_000, "idle")


def test_a_typed_text_that_nobody_answers_breaks_the_silence() -> None:
    clock = Clock(idle_end_after_ms=60_000)
    clock.wait(50_000)
    clock.see(texts=1)
    clock.wait(60_000)
    assert clock.end == (110_000, "idle")


def test_nothing_ends_a_session_where_all_is_off() -> None:
    clock = Clock(idle_end_after_ms=0, max_session_ms=0)
    clock.see(ready=True)
    clock.wait(10**9)
    assert clock.done == []


# ---------------------------------------------------------------------------------------------------------------- prompts


def prompted(**settings: Any) -> Clock:
    clock = Clock(idle_prompt="Are you there?", idle_prompt_after_ms=10_000, **settings)
    clock.see(ready=True)
    return clock


def test_prompts_are_said_into_the_silence_and_do_not_put_off_its_end() -> None:
    clock = prompted(idle_prompts=2, idle_end_after_ms=35_000)
    for _ in range(2):
        clock.wait(10_000)
        clock.wait(100)
        clock.see(bot=True)
        clock.wait(2_000)
        clock.see(bot=False)
    clock.wait(100_000)
    assert clock.commands(Prompt) == [(10_000, Prompt("Are you there?")), (22_100, Prompt("Are you there?"))]
    assert clock.end == (35_000 + 2 * 2_100, "idle")


def test_an_answer_to_a_prompt_begins_anew() -> None:
    clock = prompted(idle_end_after_ms=0)
    clock.wait(10_000)
    clock.see(bot=True)
    clock.see(user=True)
    clock.see(bot=False)
    clock.see(user=False)
    clock.see(bot=True)
    clock.wait(5_000)
    clock.see(bot=False)
    clock.wait(9_999)
    assert len(clock.commands(Prompt)) == 1
    clock.wait(1)
    assert len(clock.commands(Prompt)) == 2


def test_a_prompt_that_is_never_said_holds_nothing_up() -> None:
    clock = prompted(idle_end_after_ms=20_000)
    clock.wait(10_000_000)
    assert clock.end == (20_000 + PROMPT_WAIT_MS, "idle")


def test_a_client_that_is_not_ready_is_not_prompted() -> None:
    clock = Clock(idle_prompt="Are you there?", idle_prompt_after_ms=10_000)
    clock.wait(9_000)
    clock.see(ready=True)
    clock.wait(9_999)
    assert clock.done == []
    clock.wait(1)
    assert len(clock.commands(Prompt)) == 1


# ------------------------------------------------------------------------------------------------------ the longest session


def test_the_longest_session_is_told_before_and_lets_the_bot_finish() -> None:
    clock = Clock(max_session_ms=100_000, warning_ms=30_000)
    clock.wait(99_000)
    assert clock.done == [(71_000, Warn(30_000, "max-session"))]
    clock.see(bot=True)
    clock.wait(5_000)
    assert clock.commands(Deafen) == [(100_000, Deafen())]
    assert clock.end is None
    clock.see(bot=False)
    clock.wait(SETTLE_MS)
    assert clock.end == (104_000 + SETTLE_MS, "max-session")


def test_a_bot_that_does_not_finish_is_cut_off() -> None:
    clock = Clock(max_session_ms=100_000, finish_ms=7_000)
    clock.see(bot=True)
    clock.wait(10**6)
    assert clock.end == (107_000, "max-session")


@pytest.mark.parametrize("warning_ms", [0, 100_000, 200_000])
def test_no_warning_where_it_would_come_with_the_start(warning_ms: int) -> None:
    clock = Clock(max_session_ms=100_000, warning_ms=warning_ms)
    clock.wait(10**6)
    assert clock.commands(Warn) == []
    assert clock.end == (100_000, "max-session")


# --------------------------------------------------------------------------------------------------------- an earlier last moment

DRAINED = Leave("draining", "The server is being emptied.")


@pytest.mark.parametrize("max_session_ms", [0, 100_000])
def test_an_earlier_last_moment_counts(max_session_ms: int) -> None:
    clock = Clock(max_session_ms=max_session_ms)
    clock.wait(10_000)
    clock.give(EndBy(clock.now + 30_000, 10_000, DRAINED))
    clock.wait(29_000)
    clock.see(bot=True)
    assert clock.done == [(31_000, Warn(10_000, "draining"))]
    clock.wait(5_000)
    clock.see(bot=False)
    clock.wait(SETTLE_MS)
    assert clock.end == (44_000 + SETTLE_MS, "draining"), "the bot finishes"


def test_a_later_last_moment_changes_nothing() -> None:
    clock = Clock(max_session_ms=100_000, warning_ms=30_000)
    clock.give(EndBy(clock.now + 200_000, 10_000, DRAINED))
    clock.wait(10**6)
    assert clock.commands(Warn) == [(70_000, Warn(30_000, "max-session"))]
    assert clock.end == (100_000, "max-session")


def test_a_last_moment_that_is_near_is_told_at_once() -> None:
    clock = Clock()
    clock.give(EndBy(clock.now + 4_000, 10_000, DRAINED))
    assert clock.commands(Warn) == [(0, Warn(4_000, "draining"))]
    clock.give(EndBy(clock.now, 10_000, DRAINED))
    assert clock.end == (0, "draining")


# -------------------------------------------------------------------------------------------------------------- a wish to end


def test_a_silent_bot_leaves_at_once_even_while_the_user_speaks() -> None:
    clock = Clock()
    clock.see(user=True)
    clock.wait(5_000)
    clock.give(BYE)
    assert [command for _, command in clock.done] == [Deafen(), End("disconnect-bot", "The client asked for it.")]


def test_what_was_asked_for_is_answered_first() -> None:
    clock = Clock()
    clock.wait(5_000)
    clock.see(waiting=True, texts=1)
    clock.give(BYE)
    clock.wait(1_000)
    clock.see(waiting=False, bot=True)
    clock.wait(4_000)
    assert clock.end is None
    clock.see(bot=False)
    clock.wait(SETTLE_MS - 1)
    assert clock.end is None
    clock.wait(1)
    assert clock.end == (10_000 + SETTLE_MS, "disconnect-bot")


def test_what_the_application_says_next_is_said_too() -> None:
    clock = Clock()
    clock.see(bot=True)
    clock.give(BYE)
    clock.see(bot=False)
    clock.wait(SETTLE_MS - 1)
    clock.see(bot=True)
    clock.wait(3_000)
    assert clock.end is None
    clock.see(bot=False)
    clock.wait(SETTLE_MS)
    assert clock.end is not None


def test_the_first_wish_counts() -> None:
    clock = Clock(finish_ms=10_000)
    clock.see(bot=True)
    clock.give(BYE)
    clock.wait(9_000)
    clock.give(Leave("bot-ended", "x"))
    clock.wait(50_000)
    assert clock.end == (10_000, "disconnect-bot")


# ------------------------------------------------------------------------------------------------------------- whatever comes

steps = st.lists(
    st.tuples(
        st.integers(0, 40_000),
        st.sampled_from(["user", "bot", "waiting", "ready", "texts", "leave", "bot", "user"]),
    ),
    max_size=40,
)


@hypothesis_settings(max_examples=300, deadline=None)
@given(steps, st.integers(0, 3), st.booleans())
def test_whatever_comes(steps: list[tuple[int, str]], prompts: int, longest: bool) -> None:
    settings = {
        "idle_prompt": "Hello?" if prompts else "",
        "idle_prompts": max(1, prompts),
        "idle_prompt_after_ms": 20_000,
        "idle_end_after_ms": 50_000,
        "max_session_ms": 300_000 if longest else 0,
        "finish_ms": 10_000,
    }
    clock = Clock(**settings)
    left_ms: int | None = None
    said_ms = 1_000
    """When somebody was last seen to do something, or stopped to."""
    for pause_ms, what in steps:
        clock.wait(pause_ms)
        busy = clock.seen.user or clock.seen.bot or clock.seen.waiting
        changes = what != "leave" and not (what == "ready" and clock.seen.ready)
        if clock.end is None and (busy or changes):
            said_ms = clock.now
        if what == "leave":
            left_ms = clock.now if left_ms is None else left_ms
            clock.give(BYE)
        elif what == "texts":
            clock.see(texts=clock.seen.texts + 1)
        elif what == "ready":
            clock.see(ready=True)
        else:
            clock.see(**{what: not getattr(clock.seen, what)})
    while clock.seen.user or clock.seen.bot or clock.seen.waiting:
        if clock.end is None:
            said_ms = clock.now
        clock.see(user=False, bot=False, waiting=False)
    clock.wait(10**7)

    assert clock.end is not None, "a session that nobody speaks in ends"
    end_ms, reason = clock.end[0] + 1_000, clock.end[1]
    assert clock.done[-1] == (end_ms, next(command for _, command in clock.done if isinstance(command, End)))
    assert len(clock.commands(Deafen)) == (reason != "idle")
    if reason == "idle":
        # Not counted is at most what each prompt took.
        assert end_ms >= said_ms + 50_000 or prompts
        assert end_ms <= said_ms + 50_000 + prompts * PROMPT_WAIT_MS
    elif reason == "disconnect-bot":
        assert left_ms is not None
        assert left_ms <= end_ms <= left_ms + 10_000
    else:
        assert 301_000 <= end_ms <= 311_000
