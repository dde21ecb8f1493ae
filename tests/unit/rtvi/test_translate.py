from __future__ import annotations

import pytest

from rtvi_actors.rtvi.events import (
    AnswerClause,
    AnswerEnded,
    AnswerStarted,
    AnswerText,
    BotStarted,
    BotStopped,
    ClauseSkipped,
    ClauseSpoken,
    Event,
    Failure,
    Interrupted,
    TtsStarted,
    TtsStopped,
    TurnFigures,
    UserStarted,
    UserStopped,
    UserText,
    UserTyped,
    WordsSpoken,
)
from rtvi_actors.rtvi.messages import Message
from rtvi_actors.rtvi.translate import Translator

pytestmark = pytest.mark.unit

NOW = "2026-01-01T00:00:00.000+00:00"
OLD = (1, 2, 0)


def told(events: list[Event], version: tuple[int, int, int] = (2, 1, 0)) -> list[Message]:
    translator = Translator(version)
    return [message for event in events for message in translator.handle(event, NOW)]


def outputs(events: list[Event], version: tuple[int, int, int] = (2, 1, 0)) -> list[tuple[str, str]]:
    """(text, state) of the bot-output messages, and the type of bot-started-speaking between them."""
    seen = []
    for message in told(events, version):
        if message.type == "bot-started-speaking":
            seen.append((message.type, ""))
        if message.type == "bot-output":
            state = str(message.data["spoken"]) if version == OLD else message.data["spoken_status"]
            seen.append((message.data["text"], state))
    return seen


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (UserStarted(1), "user-started-speaking"),
        (UserStopped(1), "user-stopped-speaking"),
        (BotStarted(1), "bot-started-speaking"),
        (BotStopped(1), "bot-stopped-speaking"),
        (Interrupted(1), "bot-interrupted"),
        (TtsStarted(1), "bot-tts-started"),
        (TtsStopped(1), "bot-tts-stopped"),
    ],
)
def test_signals_have_neither_data_nor_id(event: Event, kind: str) -> None:
    assert told([event]) == [Message(kind)]


def test_clients_of_1_x_do_not_know_interruptions() -> None:
    assert told([Interrupted(1)], OLD) == []
    assert told([Interrupted(1)], (0, 0, 0)) == [Message("bot-interrupted")]


def test_what_the_user_says_goes_out_under_both_names_the_new_one_first() -> None:
    assert told([UserText(1, "Hi", final=False)]) == [
        Message("user-input", {"text": "Hi", "input_type": "transcription", "timestamp": NOW, "final": False}),
        Message("user-transcription", {"text": "Hi", "user_id": "", "timestamp": NOW, "final": False}),
    ]


def test_what_the_user_types_is_acknowledged() -> None:
    typed = {"text": "Hi", "input_type": "chat", "timestamp": NOW, "final": True, "msg_id": "m"}
    assert told([UserTyped("Hi", "m")]) == [Message("user-input", typed)]


def test_an_answer_as_it_streams_and_by_sentences() -> None:
    answer: list[Event] = [
        AnswerStarted(1, "Hi"),
        *(AnswerText(1, text) for text in ["Pi is 3", ".14. ", "Really", "? ", "Ye", "s"]),
    ]
    messages = told([*answer, AnswerEnded(1)])
    assert [(message.type, (message.data or {}).get("text")) for message in messages] == [
        ("user-llm-text", "Hi"),
        ("bot-llm-started", None),
        ("bot-llm-text", "Pi is 3"),
        ("bot-llm-text", ".14. "),
        ("bot-transcription", "Pi is 3.14."),
        ("bot-llm-text", "Really"),
        ("bot-llm-text", "? "),
        ("bot-transcription", "Really?"),
        ("bot-llm-text", "Ye"),
        ("bot-llm-text", "s"),
        ("bot-transcription", "Yes"),
        ("bot-llm-stopped", None),
    ]


def test_an_interrupted_answer_is_closed_and_its_half_sentence_dropped() -> None:
    messages = told([AnswerStarted(1, "Hi"), AnswerText(1, "Half a"), Interrupted(1), AnswerEnded(1), AnswerEnded(1)])
    assert [message.type for message in messages[-2:]] == ["bot-interrupted", "bot-llm-stopped"]


def test_what_the_application_says_comes_from_no_model() -> None:
    events: list[Event] = [AnswerStarted(1, "", said=True), AnswerClause(1, 0, "Hello.", True), AnswerEnded(1)]
    assert told(events) == []


KINDS = {"output_type": "sentence", "text_type": "sentence", "aggregated_by": "sentence"}


def test_a_segment_from_its_text_to_its_last_word_under_all_three_names_of_its_kind() -> None:
    text = " One, two three. "
    events: list[Event] = [
        AnswerClause(1, 0, text, True),
        BotStarted(1),
        WordsSpoken(1, 0, text, 0, 5),
        WordsSpoken(1, 0, text, 5, 9),
        ClauseSpoken(1, 0, text, 9),
    ]
    segment = {"text": "One, two three.", **KINDS, "segment_id": 1, "will_be_spoken": True}
    assert told(events)[1:] == [
        Message(
            "bot-output", {**segment, "spoken": False, "spoken_status": "new", "spoken_progress": progress("", "One, two three.")}
        ),
        Message(
            "bot-output",
            {**segment, "spoken": False, "spoken_status": "in-progress", "spoken_progress": progress("One,", " two three.")},
        ),
        Message("bot-tts-text", {"text": "One,"}),
        Message(
            "bot-output",
            {**segment, "spoken": False, "spoken_status": "in-progress", "spoken_progress": progress("One, two", " three.")},
        ),
        Message("bot-tts-text", {"text": "two"}),
        Message(
            "bot-output",
            {**segment, "spoken": True, "spoken_status": "completed", "spoken_progress": progress("One, two three.", "")},
        ),
        Message("bot-tts-text", {"text": "three."}),
    ]


def progress(accumulated: str, remaining: str) -> dict[str, str]:
    return {"accumulated_text": accumulated, "remaining_text": remaining}


def test_the_last_word_completes_a_segment_and_the_silence_behind_it_does_not_again() -> None:
    events: list[Event] = [
        AnswerClause(1, 0, "Yes. ", True),
        BotStarted(1),
        WordsSpoken(1, 0, "Yes. ", 0, 4),
        ClauseSpoken(1, 0, "Yes. ", 4),
    ]
    assert outputs(events) == [("bot-started-speaking", ""), ("Yes.", "new"), ("Yes.", "completed")]
    assert [message.data for message in told(events) if message.type == "bot-tts-text"] == [{"text": "Yes."}]
    assert [message.data for message in told(events, OLD) if message.type == "bot-tts-text"] == [{"text": "Yes."}]


def test_a_voice_without_word_times_tells_whole_clauses() -> None:
    events: list[Event] = [AnswerClause(1, 0, " Oh no, ", True), BotStarted(1), ClauseSpoken(1, 0, " Oh no, ")]
    assert outputs(events) == [("bot-started-speaking", ""), ("Oh no,", "new"), ("Oh no,", "completed")]
    assert told(events)[-1] == Message("bot-tts-text", {"text": "Oh no,"})


def test_clients_of_1_x_get_each_word_once_when_it_is_spoken() -> None:
    text = "One, two three. "
    events: list[Event] = [
        AnswerClause(1, 0, text, True),
        BotStarted(1),
        WordsSpoken(1, 0, text, 0, 8),
        ClauseSpoken(1, 0, text, 8),
    ]
    data = [message.data for message in told(events, OLD) if message.type == "bot-output"]
    assert data == [
        {"text": "One, two three.", "spoken": False, "aggregated_by": "sentence"},
        *({"text": word, "spoken": True, "aggregated_by": "word"} for word in ("One,", "two", "three.")),
    ]


@pytest.mark.parametrize("version", [(2, 1, 0), OLD])
def test_an_interrupted_segment_stops(version: tuple[int, int, int]) -> None:
    events: list[Event] = [
        AnswerClause(1, 0, "One two.", True),
        BotStarted(1),
        WordsSpoken(1, 0, "One two.", 0, 3),
        Interrupted(1),
        BotStopped(1),
        AnswerClause(2, 0, "New.", True),
        BotStarted(2),
    ]
    told_last = ("One two.", "in-progress") if version != OLD else ("One", "True")
    assert outputs(events, version)[2:] == [told_last, ("bot-started-speaking", ""), ("New.", "new" if version != OLD else "False")]


def test_a_clause_that_is_only_read_is_told_at_once() -> None:
    (message,) = told([AnswerClause(1, 0, "Hi", False)])
    assert message.data == {
        "text": "Hi",
        "output_type": "sentence",
        "text_type": "sentence",
        "aggregated_by": "sentence",
        "segment_id": 1,
        "spoken": False,
        "will_be_spoken": False,
        "spoken_status": "new",
    }


def test_segments_count_over_the_session_and_blanks_are_none() -> None:
    messages = told([AnswerClause(turn, 0, text, False) for turn, text in [(1, "a"), (2, " \n"), (3, "b")]])
    assert [message.data["segment_id"] for message in messages] == [1, 2]


MIXED: list[Event] = [
    AnswerClause(1, 0, "spoken", True),
    AnswerClause(1, 1, "code", False),
    BotStarted(1),
    AnswerClause(1, 2, "more", True),
    ClauseSpoken(1, 0, "spoken"),
    AnswerClause(1, 3, "end", False),
    ClauseSpoken(1, 2, "more"),
]


def test_text_keeps_its_order_whether_spoken_or_read() -> None:
    assert outputs(MIXED) == [
        ("bot-started-speaking", ""),
        ("spoken", "new"),
        ("code", "new"),
        ("more", "new"),
        ("spoken", "completed"),
        ("end", "new"),
        ("more", "completed"),
    ]


def test_clients_of_1_x_get_each_spoken_clause_twice_but_not_before_the_bot_speaks() -> None:
    assert outputs(MIXED, OLD) == [
        ("bot-started-speaking", ""),
        ("spoken", "False"),
        ("code", "False"),
        ("more", "False"),
        ("spoken", "True"),
        ("end", "False"),
        ("more", "True"),
    ]
    assert told(MIXED, OLD)[1].data == {"text": "spoken", "spoken": False, "aggregated_by": "sentence"}


@pytest.mark.parametrize("version", [(2, 1, 0), OLD])
def test_a_clause_that_the_voice_failed_on_is_read_in_its_place(version: tuple[int, int, int]) -> None:
    events: list[Event] = [
        AnswerClause(1, 0, "one", True),
        AnswerClause(1, 1, "two", True),
        ClauseSkipped(1, 1, "two"),
        BotStarted(1),
        ClauseSpoken(1, 0, "one"),
    ]
    told = ("new", "completed") if version != OLD else ("False", "True")
    assert outputs(events, version)[1:] == [("one", told[0]), ("two", told[0]), ("one", told[1])]


def test_a_clause_that_the_voice_fails_on_after_it_was_told_stops() -> None:
    events: list[Event] = [
        AnswerClause(1, 0, "one", True),
        BotStarted(1),
        AnswerClause(1, 1, "two", True),
        ClauseSkipped(1, 1, "two"),
        ClauseSpoken(1, 0, "one"),
    ]
    assert outputs(events)[1:] == [("one", "new"), ("two", "new"), ("one", "completed")]


def test_all_clauses_failed() -> None:
    assert outputs([AnswerClause(1, 0, "one", True), ClauseSkipped(1, 0, "one")]) == [("one", "new")]
    assert outputs([AnswerClause(1, 0, "one", True), ClauseSkipped(1, 0, "one")], OLD) == [("one", "False")]


def test_an_interruption_drops_what_waits_to_be_spoken() -> None:
    events: list[Event] = [
        AnswerClause(1, 0, "a", True),
        AnswerClause(1, 1, "b", False),
        Interrupted(1),
        AnswerClause(2, 0, "c", False),
    ]
    assert outputs(events) == [("c", "new")]


def test_an_error_is_an_event() -> None:
    assert told([Failure("bad", fatal=False)]) == [Message("error", {"error": "bad", "message": "bad", "fatal": False})]


def test_figures_are_seconds() -> None:
    services = [
        ("stt", "ttfb_ms", 12.5),
        ("llm", "processing_ms", 1_000.0),
        ("tts", "characters", 7.0),
        ("llm", "prompt_tokens", 5.0),
        ("llm", "completion_tokens", 2.0),
        ("llm", "unknown", 2.0),
    ]
    (message,) = told([TurnFigures(3, 30.0, {"endpointing": 20.0, "stt": 10.0}, 4.0, services)])
    assert message == Message(
        "metrics",
        {
            "ttfb": [{"processor": "stt", "value": 0.0125}],
            "processing": [{"processor": "llm", "value": 1.0}],
            "characters": [{"processor": "tts", "value": 7}],
            "tokens": [{"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}],
            "turn_latency": [
                {
                    "turn": 3,
                    "total": 0.03,
                    "own_share": 0.004,
                    "segments": [{"name": "endpointing", "value": 0.02}, {"name": "stt", "value": 0.01}],
                }
            ],
        },
    )


def test_no_figures_no_message() -> None:
    assert told([TurnFigures(3, 0.0, {}, 0.0)]) == []
