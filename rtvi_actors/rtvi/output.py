"""bot-output: the text to show, clause by clause, in the form of the client's version.

2.x: one ``completed`` when a clause was spoken, one ``new`` for a clause that is only read. 1.x: the clause with ``spoken`` false,
and again with ``spoken`` true once it was. Neither form tells spoken text before bot-started-speaking, and clauses come in
the order of the text: one that is only read waits for spoken ones before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from rtvi_actors.rtvi.events import AnswerClause, BotStarted, ClauseSkipped, ClauseSpoken, Event, Interrupted
from rtvi_actors.rtvi.messages import Message

KIND = "sentence"
"""Of all clauses. It goes out under its three names: each generation of clients reads another one."""


class BotOutput:
    """Clauses that are complete but not told yet, in order. They are bounded by the length of one answer."""

    def __init__(self) -> None:
        self.legacy = False
        self._waiting: deque[AnswerClause] = deque()
        self._sounding_turn = 0
        self._segment_id = 0

    def handle(self, event: Event) -> list[Message]:
        """The bot-output messages of ``event``."""
        match event:
            case AnswerClause():
                self._waiting.append(event)
                return self._untold()
            case BotStarted():
                self._sounding_turn = event.turn
                return self._untold()
            case ClauseSpoken():
                self._waiting = deque(clause for clause in self._waiting if not _same(clause, event))
                return [*self._spoken(event.text), *self._untold()]
            case ClauseSkipped():
                self._waiting = deque(replace(clause, spoken=False) if _same(clause, event) else clause for clause in self._waiting)
                return self._untold()
            case Interrupted():
                self._waiting = deque(clause for clause in self._waiting if clause.turn > event.turn)
        return []

    def _untold(self) -> list[Message]:
        """What may be told of the waiting clauses, up to the first that has to wait on."""
        messages = []
        while self._waiting:
            first = self._waiting[0]
            sounding = self.legacy and first.turn == self._sounding_turn
            if first.spoken and not sounding:
                break
            self._waiting.popleft()
            messages += self._unspoken(first.text, will_be_spoken=first.spoken)
        return messages

    def _unspoken(self, text: str, *, will_be_spoken: bool) -> list[Message]:
        if self.legacy:
            return self._legacy(text, spoken=False)
        return self._segment(text, spoken=False, will_be_spoken=will_be_spoken, spoken_status="new")

    def _spoken(self, text: str) -> list[Message]:
        if self.legacy:
            return self._legacy(text, spoken=True)
        progress = {"accumulated_text": text.strip(), "remaining_text": ""}
        return self._segment(text, spoken=True, will_be_spoken=True, spoken_status="completed", spoken_progress=progress)

    def _legacy(self, text: str, *, spoken: bool) -> list[Message]:
        shown = text.strip()
        return [Message("bot-output", {"text": shown, "spoken": spoken, "aggregated_by": KIND})] if shown else []

    def _segment(self, text: str, **fields: Any) -> list[Message]:
        shown = text.strip()
        if not shown:
            return []
        self._segment_id += 1
        kinds = {"output_type": KIND, "text_type": KIND, "aggregated_by": KIND}
        return [Message("bot-output", {"text": shown, **kinds, "segment_id": self._segment_id, **fields})]


def _same(clause: AnswerClause, event: ClauseSpoken | ClauseSkipped) -> bool:
    return (clause.turn, clause.clause) == (event.turn, event.clause)
