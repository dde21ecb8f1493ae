"""What a test may ask to be told beside the conversation."""

from __future__ import annotations

import pytest

from rtvi_actors.edge.reports import Reports
from rtvi_actors.frames.types import Frame, SpeechResumed, TurnMayEnd, TurnStarted
from rtvi_actors.rtvi.events import AnswerEnded, AnswerStarted, AnswerText, Event
from rtvi_actors.rtvi.messages import Message

pytestmark = pytest.mark.unit

FRAMES: list[Frame] = [
    TurnStarted(turn=1, request="", source="speech"),
    TurnMayEnd(turn=1, attempt=1, last_sample=5),
    SpeechResumed(turn=1, attempt=1),
    TurnMayEnd(turn=1, attempt=2, last_sample=9),
    TurnStarted(turn=2, request="r", source="text"),
]
EVENTS: list[Event] = [
    AnswerStarted(1, "hi"),
    AnswerText(1, "Good "),
    AnswerText(1, "evening."),
    AnswerEnded(1),
    AnswerStarted(2, "hi"),
    AnswerText(2, "Yes."),
    AnswerEnded(2),
]


def test_nothing_is_told_unless_it_is_asked_for() -> None:
    reports = Reports()
    assert [message for frame in FRAMES for message in reports.of_frame(frame)] == []
    assert [message for event in EVENTS for message in reports.of_event(event)] == []


def test_voice_activity_is_told_as_it_is_and_only_of_speech() -> None:
    reports = Reports()
    reports.voice_activity = True
    assert [message.type for frame in FRAMES for message in reports.of_frame(frame)] == [
        "vad-user-started-speaking",
        "vad-user-stopped-speaking",
        "vad-user-started-speaking",
        "vad-user-stopped-speaking",
    ]


def test_each_answer_ends_with_a_marker_that_holds_its_text_alone() -> None:
    reports = Reports()
    reports.markers = True
    assert [message for event in EVENTS for message in reports.of_event(event)] == [
        Message("bot-llm-marker", {"text": "", "raw": "Good evening.", "markers": []}),
        Message("bot-llm-marker", {"text": "", "raw": "Yes.", "markers": []}),
    ]
