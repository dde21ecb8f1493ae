"""When a session ends although its client stays: after too long a silence, at its last moment, or when somebody asks. Pure.

The last moment is that of ``max_session_ms``, or an earlier one that comes when the app is drained.

Silence counts while nobody speaks, thinks or is waited for. The user's words, typed or spoken, and the bot's set it back to
nothing; a prompt that the bot says into the silence only interrupts it, so prompts do not put off the end.

A session that is asked to end lets the bot finish: what is asked for already is answered, and what it says is heard to its end,
within ``finish_ms``. The end that silence brings has nothing to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from rtvi_actors.config import Session as Settings

SETTLE_MS = 300
"""How long the bot must have been silent at an end that it was to finish for: what is on its way to the client is heard by then,
and what the application says next has begun.
"""
PROMPT_WAIT_MS = 10_000
"""A prompt that is not begun by then never will be."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the edge knows of the conversation now. ``user``, ``bot``: they speak or think. ``waiting``: the bot owes something that
    it has not begun. ``texts``: how many were typed so far. ``ready``: the client is, so the bot may speak.
    """

    ready: bool = False
    user: bool = False
    bot: bool = False
    waiting: bool = False
    texts: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """Somebody wants the session to end. ``reason``: disconnect-bot or bot-ended; ``text``: why, for people."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class EndBy:
    """The session may last until ``at_ms`` at most; the client is warned ``warning_ms`` before. A later moment changes nothing."""

    at_ms: int
    warning_ms: int
    leave: Leave


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of the last WakeAt has come."""


Event: TypeAlias = Seen | Leave | EndBy | Tick


@dataclass(frozen=True, slots=True)
class Prompt:
    """The bot shall say ``text``."""

    text: str


@dataclass(frozen=True, slots=True)
class Warn:
    """Tell the client that the session ends in ``left_ms``, and why."""

    left_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Deafen:
    """What the user says or types from now on is not taken any more."""


@dataclass(frozen=True, slots=True)
class End:
    """End the session now. ``reason``: idle, or that of a Leave. The last command there is."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call ``handle(Tick(), now)`` at ``at_ms``. Replaces the timer before; without one in the answer no timer is needed."""

    at_ms: int


Command: TypeAlias = Prompt | Warn | Deafen | End | WakeAt


class Ending:
    """One session's end. ``now_ms`` must not fall from one call to the next; the first one is its start."""

    def __init__(self, settings: Settings, now_ms: int) -> None:
        self._settings = settings
        self._seen = Seen()
        self._counted_to_ms = now_ms
        self._silence_ms = 0
        self._prompts = 0
        self._prompted_at_ms = 0
        """The silence at which the last prompt was asked for."""
        self._prompt_wait_ms: int | None = None
        """Until when the bot is waited for to begin it."""
        self._prompting = False
        self._finished_ms = now_ms - SETTLE_MS
        """Since when the bot owes nothing; of use while it owes nothing."""
        self._last: EndBy | None = None
        if settings.max_session_ms:
            leave = Leave("max-session", f"A session lasts {_duration(settings.max_session_ms)} at most.")
            self._last = EndBy(now_ms + settings.max_session_ms, settings.warning_ms, leave)
        self._warned = not 0 < settings.warning_ms < settings.max_session_ms
        self._leave: Leave | None = None
        self._leave_by_ms = 0
        self._ended = False

    def handle(self, event: Event, now_ms: int) -> list[Command]:
        """Take one event; returns what must be done, in order."""
        if self._ended:
            return []
        if self._counting:
            self._silence_ms += now_ms - self._counted_to_ms
        self._counted_to_ms = now_ms
        commands: list[Command] = []
        match event:
            case Seen():
                self._look(event, now_ms)
            case Leave():
                commands += self._begin_to_leave(event, now_ms)
            case EndBy():
                if self._last is None or event.at_ms < self._last.at_ms:
                    self._last, self._warned = event, event.warning_ms == 0
            case Tick():
                pass  # only the time has changed
        commands += self._expire(now_ms)
        wake = None if self._ended else self._next_ms(now_ms)
        return commands if wake is None else [*commands, WakeAt(max(wake, now_ms))]

    @property
    def _owes(self) -> bool:
        return self._seen.bot or self._seen.waiting

    @property
    def _counting(self) -> bool:
        """Whether this is silence."""
        return not (self._owes or self._seen.user or self._prompt_wait_ms is not None or self._leave is not None)

    def _look(self, seen: Seen, now_ms: int) -> None:
        before, self._seen = self._seen, seen
        if (before.bot or before.waiting) and not self._owes:
            self._finished_ms = now_ms
        asked = self._prompt_wait_ms is not None
        if seen.user or seen.texts > before.texts or seen.ready > before.ready:
            self._break_silence()
        elif self._owes and asked:
            self._prompt_wait_ms, self._prompting = None, True
        elif self._owes and not self._prompting:
            self._break_silence()
        elif not self._owes:
            self._prompting = False

    def _break_silence(self) -> None:
        self._silence_ms = self._prompts = self._prompted_at_ms = 0
        self._prompt_wait_ms, self._prompting = None, False

    def _begin_to_leave(self, leave: Leave, now_ms: int) -> list[Command]:
        if self._leave is not None:
            return []
        self._leave, self._leave_by_ms = leave, now_ms + self._settings.finish_ms
        return [Deafen()]

    def _expire(self, now_ms: int) -> list[Command]:
        """Do what the time asks for."""
        commands: list[Command] = []
        if self._last is not None and now_ms >= self._last.at_ms:
            commands += self._begin_to_leave(self._last.leave, now_ms)
        elif self._last is not None and not self._warned and now_ms >= self._last.at_ms - self._last.warning_ms:
            self._warned = True
            commands.append(Warn(self._last.at_ms - now_ms, self._last.leave.reason))
        if self._prompt_wait_ms is not None and now_ms >= self._prompt_wait_ms:
            self._prompt_wait_ms = None
        if self._leave is not None:
            if now_ms >= self._leave_ms():
                commands.append(self._end(self._leave.reason, self._leave.text))
        elif self._counting:
            commands += self._endure(now_ms)
        return commands

    def _endure(self, now_ms: int) -> list[Command]:
        """What the silence asks for."""
        settings = self._settings
        if settings.idle_end_after_ms and self._silence_ms >= settings.idle_end_after_ms:
            return [self._end("idle", f"Nobody said anything for {_duration(settings.idle_end_after_ms)}.")]
        if not self._may_prompt or self._silence_ms < self._prompted_at_ms + settings.idle_prompt_after_ms:
            return []
        self._prompts += 1
        self._prompted_at_ms = self._silence_ms
        self._prompt_wait_ms = now_ms + PROMPT_WAIT_MS
        return [Prompt(settings.idle_prompt)]

    @property
    def _may_prompt(self) -> bool:
        return bool(self._settings.idle_prompt) and self._seen.ready and self._prompts < self._settings.idle_prompts

    def _end(self, reason: str, text: str) -> End:
        self._ended = True
        return End(reason, text)

    def _leave_ms(self) -> int:
        """When a session that is asked to end does, if nothing changes."""
        return self._leave_by_ms if self._owes else min(self._finished_ms + SETTLE_MS, self._leave_by_ms)

    def _next_ms(self, now_ms: int) -> int | None:
        """When the time asks for something next, if nothing else happens."""
        settings = self._settings
        if self._leave is not None:
            return self._leave_ms()
        due = []
        if self._last is not None:
            due.append(self._last.at_ms if self._warned else self._last.at_ms - self._last.warning_ms)
        if self._prompt_wait_ms is not None:
            due.append(self._prompt_wait_ms)
        elif self._counting:
            if settings.idle_end_after_ms:
                due.append(now_ms + settings.idle_end_after_ms - self._silence_ms)
            if self._may_prompt:
                due.append(now_ms + self._prompted_at_ms + settings.idle_prompt_after_ms - self._silence_ms)
        return min(due, default=None)


def _duration(ms: int) -> str:
    """For people: 90 s, 5 min, 2 h."""
    for unit, size in (("h", 3_600_000), ("min", 60_000)):
        if ms >= size and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms / 1_000:g} s"
