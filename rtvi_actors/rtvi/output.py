"""bot-output: the text to show, clause by clause and word by word as it is spoken, in the form of the client's version.

To a client of 2.x each clause is a *segment*. The first message of a segment has the text, the others move a mark along it::

    {"text": "I have two rooms.", "segment_id": 3, "will_be_spoken": true, "spoken": false, "spoken_status": "new",
     "spoken_progress": {"accumulated_text": "", "remaining_text": "I have two rooms."},
     "output_type": "sentence", "text_type": "sentence", "aggregated_by": "sentence"}
    {..., "spoken_status": "in-progress", "spoken_progress": {"accumulated_text": "I have", "remaining_text": " two rooms."}}
    {..., "spoken_status": "completed", "spoken": true,
     "spoken_progress": {"accumulated_text": "I have two rooms.", "remaining_text": ""}}

* ``new`` comes when the bot has begun to speak, or when the clause is complete if that is later: ahead of its sound.
* ``in-progress`` comes when the last sound of a word was sent, at most once in 40 ms. ``text`` is the whole clause each time, and
  is ``accumulated_text + remaining_text``; ``accumulated_text`` ends with a whole word. A voice without word times has none of it.
* ``completed`` comes when the last sound of its last word was sent.
* A clause that is only read is a single ``new`` with ``will_be_spoken`` false and no progress.
* An interrupted segment stops: nothing more of it comes, and its last ``accumulated_text`` is what the context keeps of it. So does
  one that the voice failed on.
* ``segment_id`` rises over the whole session, in the order of the text. Progress of a segment may come after ``new`` of the next.

To a client of 1.x: the clause with ``spoken`` false (``aggregated_by`` "sentence"), and then with ``spoken`` true each of its words
(``aggregated_by`` "word"), or the whole clause again if the voice tells no word times.

Neither form tells spoken text before bot-started-speaking, and clauses come in the order of the text: one that is only read waits
for spoken ones before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from rtvi_actors.rtvi.events import (
    AnswerClause,
    BotStarted,
    BotStopped,
    ClauseSkipped,
    ClauseSpoken,
    Event,
    Interrupted,
    WordsSpoken,
)
from rtvi_actors.rtvi.messages import Message

SENTENCE = "sentence"
"""The kind of all clauses. It goes out under its three names: each generation of clients reads another one."""
WORD = "word"
"""The kind of a single word, known to clients of 1.x only."""


class BotOutput:
    """Clauses that are complete but not told yet, in order. They are bounded by the length of one answer."""

    def __init__(self) -> None:
        self.legacy = False
        self._waiting: deque[AnswerClause] = deque()
        self._sounding_turn = 0
        self._segments: dict[tuple[int, int], int] = {}
        """(turn, clause) -> segment, of those that are told and not completed."""
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
            case WordsSpoken():
                return self._words(event)
            case ClauseSpoken():
                return self._completed(event)
            case ClauseSkipped():
                self._segments.pop((event.turn, event.clause), None)
                self._waiting = deque(replace(clause, spoken=False) if _same(clause, event) else clause for clause in self._waiting)
                return self._untold()
            case Interrupted():
                self._waiting = deque(clause for clause in self._waiting if clause.turn > event.turn)
                self._forget(event.turn)
            case BotStopped():
                self._forget(event.turn)
        return []

    def _forget(self, turn: int) -> None:
        """No segment up to ``turn`` moves any more."""
        self._segments = {place: segment for place, segment in self._segments.items() if place[0] > turn}

    def _untold(self) -> list[Message]:
        """What may be told of the waiting clauses, up to the first that has to wait on."""
        messages = []
        while self._waiting and (not self._waiting[0].spoken or self._waiting[0].turn == self._sounding_turn):
            messages += self._new(self._waiting.popleft())
        return messages

    def _new(self, clause: AnswerClause) -> list[Message]:
        shown = clause.text.strip()
        if not shown:
            return []
        if self.legacy:
            return [_legacy(shown, SENTENCE, spoken=False)]
        self._segment_id += 1
        if not clause.spoken:
            return [_segment(shown, self._segment_id, spoken=False, will_be_spoken=False, spoken_status="new")]
        self._segments[clause.turn, clause.clause] = self._segment_id
        return [_progress(shown, self._segment_id, 0)]

    def _words(self, event: WordsSpoken) -> list[Message]:
        if self.legacy:
            return [_legacy(word, WORD, spoken=True) for word in event.text[event.start : event.end].split()]
        return self._move(event, event.end)

    def _completed(self, event: ClauseSpoken) -> list[Message]:
        if self.legacy and event.start:
            return [_legacy(word, WORD, spoken=True) for word in event.text[event.start :].split()]
        if self.legacy:
            shown = event.text.strip()
            return [_legacy(shown, SENTENCE, spoken=True)] if shown else []
        return self._move(event, len(event.text))

    def _move(self, event: WordsSpoken | ClauseSpoken, end: int) -> list[Message]:
        """The mark of the event's segment stands behind character ``end`` of the clause now."""
        place = (event.turn, event.clause)
        segment = self._segments.get(place)
        if segment is None:
            return []
        shown = event.text.strip()
        told = min(end - (len(event.text) - len(event.text.lstrip())), len(shown))
        if told == len(shown):
            del self._segments[place]
        return [_progress(shown, segment, told)]


def _progress(text: str, segment: int, told: int) -> Message:
    """Of the segment, the first ``told`` characters were spoken."""
    spoken = told == len(text)
    status = "completed" if spoken else "in-progress" if told else "new"
    progress = {"accumulated_text": text[:told], "remaining_text": text[told:]}
    return _segment(text, segment, spoken=spoken, will_be_spoken=True, spoken_status=status, spoken_progress=progress)


def _segment(text: str, segment: int, **fields: Any) -> Message:
    kinds = {"output_type": SENTENCE, "text_type": SENTENCE, "aggregated_by": SENTENCE}
    return Message("bot-output", {"text": text, **kinds, "segment_id": segment, **fields})


def _legacy(text: str, kind: str, *, spoken: bool) -> Message:
    return Message("bot-output", {"text": text, "spoken": spoken, "aggregated_by": kind})


def _same(clause: AnswerClause, event: ClauseSkipped) -> bool:
    return (clause.turn, clause.clause) == (event.turn, event.clause)
