"""The messages of Pipecat's evaluation harness: obeyed with the switch, the application's without."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rtvi_actors.frames.types import ClientMessage, SpeechResumed, TurnMayEnd, TurnStarted

pytestmark = pytest.mark.unit

READY = {"version": "2.2.0", "about": {"library": "pipecat", "platform": None}}
CONNECT = {"skip_tts": True, "capture_bot_audio": True, "capture_bot_images": False}
CONTEXT = {"messages": [{"role": "user", "content": "My name is Ann."}]}


@pytest.fixture
async def testing(make_edge: Any) -> AsyncIterator[Any]:
    """An edge with the switch on."""
    edge = make_edge(edge={"eval_messages": True})
    yield edge
    await edge.sessions.stop(2.0)
    await edge.over()


def ask(client: Any, kind: str, data: Any, request_id: str = "e1") -> None:
    client.request("client-message", {"t": kind, "d": data}, request_id)


async def ready(client: Any, until: Any) -> None:
    client.request("client-ready", READY, "client-ready")
    await until(lambda: "bot-ready" in client.types)


def audio_of(client: Any) -> bytes:
    return b"".join(base64.b64decode(told["data"]["audio"]) for told in client.messages if told["type"] == "eval-bot-audio")


async def test_with_the_switch_off_all_of_them_are_the_applications(edge: Any, until: Any) -> None:
    _, client = await edge.connect(json_wire=True)
    for kind, data in [
        ("eval-connect", CONNECT),
        ("eval-configure", {"vad_user_speaking": True, "llm_markers": True}),
        ("eval-context", CONTEXT),
        ("eval-image", {"image": "AAAA"}),
        ("eval-cancel", {}),
    ]:
        ask(client, kind, data)
    await ready(client, until)
    told = edge.stages.got("llm", ClientMessage)
    assert [message.type for message in told] == ["client-message"] * 5 + ["client-ready"]
    edge.stages.user_says("hello")
    edge.stages.bot_answers("Yes.", samples=1_920)
    await until(lambda: "bot-stopped-speaking" in client.types)
    assert not {"eval-bot-audio", "bot-llm-marker", "vad-user-started-speaking", "error-response"} & set(client.types)
    assert client.closed is None


async def test_the_bot_is_silenced_before_it_starts(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    ask(client, "eval-connect", CONNECT, "eval-connect")
    await ready(client, until)
    told = testing.stages.got("llm", ClientMessage)
    assert [message.type for message in told] == ["eval-connect", "client-ready"]
    assert json.loads(told[0].data) == {"skip_tts": True}


async def test_a_bot_that_may_speak_is_told_nothing(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    ask(client, "eval-connect", {"skip_tts": False, "capture_bot_audio": None}, "eval-connect")
    await ready(client, until)
    assert [message.type for message in testing.stages.got("llm", ClientMessage)] == ["client-ready"]


@pytest.mark.parametrize("captured", [True, False])
async def test_bot_audio_is_carried_only_if_asked_and_in_time_with_the_events(testing: Any, until: Any, captured: bool) -> None:
    _, client = await testing.connect(json_wire=True)
    ask(client, "eval-connect", {"capture_bot_audio": captured})
    await ready(client, until)
    testing.stages.user_says("hello")
    testing.stages.bot_answers("Yes.", samples=9_600)
    await until(lambda: "bot-stopped-speaking" in client.types)
    audio = audio_of(client)
    assert audio[: 2 * 9_600] == (bytes([1]) * 2 * 9_600 if captured else b"")
    if captured:
        assert client.types.index("bot-started-speaking") < client.types.index("eval-bot-audio")
        assert all(told["data"]["sampleRate"] == 24_000 for told in client.messages if told["type"] == "eval-bot-audio")
    assert testing.stages.granted("tts", "bot_audio") == 2 * 9_600


async def test_reports_are_told_once_asked_for(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    configure = {"vad_user_speaking": True, "llm_markers": True, "function_call_report_level": {"*": "full"}}
    ask(client, "eval-configure", configure)
    await ready(client, until)
    testing.stages.say("speaking", TurnStarted(turn=1, request="", source="speech"))
    testing.stages.say("speaking", TurnMayEnd(turn=1, attempt=1, last_sample=512))
    testing.stages.say("speaking", SpeechResumed(turn=1, attempt=1))
    testing.stages.say("speaking", TurnMayEnd(turn=1, attempt=2, last_sample=1_024))
    testing.stages.user_says("hello", turn=2)
    testing.stages.bot_answers("Yes.", samples=1_920, turn=2)
    await until(lambda: "bot-llm-marker" in client.types)
    assert [kind for kind in client.types if kind.startswith("vad-")] == [
        "vad-user-started-speaking",
        "vad-user-stopped-speaking",
        "vad-user-started-speaking",
        "vad-user-stopped-speaking",
        "vad-user-started-speaking",
    ]
    told = client.messages[client.types.index("bot-llm-marker")]
    assert told["data"] == {"text": "", "raw": "Yes.", "markers": []}
    assert client.types.index("bot-llm-stopped") < client.types.index("bot-llm-marker")


async def test_a_context_goes_to_the_bot_as_roles_and_texts(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts, "name": "x"}]
    ask(client, "eval-context", {"messages": messages})
    await until(lambda: testing.stages.got("llm", ClientMessage))
    (told,) = testing.stages.got("llm", ClientMessage)
    assert told.type == "eval-context"
    assert json.loads(told.data) == {"messages": [["system", "Be kind."], ["user", "one two"]]}


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("eval-connect", []),
        ("eval-connect", {"skip_tts": "yes"}),
        ("eval-configure", {"llm_markers": 1}),
        ("eval-context", None),
        ("eval-context", {"messages": "x"}),
        ("eval-context", {"messages": ["x"]}),
        ("eval-context", {"messages": [{"role": "tool", "content": "x"}]}),
        ("eval-context", {"messages": [{"role": ["user"], "content": "x"}]}),
        ("eval-context", {"messages": [{"role": "user"}]}),
        ("eval-context", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("eval-context", {"messages": [{"role": "user", "content": "x"}] * 65}),
        ("eval-image", {"image": "AAAA", "format": "image/png"}),
    ],
)
async def test_what_cannot_be_done_is_refused_and_the_session_goes_on(testing: Any, until: Any, kind: str, data: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    ask(client, kind, data)
    await ready(client, until)
    assert [(told["type"], told["id"]) for told in client.messages] == [("error-response", "e1"), ("bot-ready", "client-ready")]
    assert [message.type for message in testing.stages.got("llm", ClientMessage)] == ["client-ready"]


async def test_cancel_ends_the_session_cleanly(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    await ready(client, until)
    testing.stages.user_says("hello")
    testing.stages.bot_answers("A long answer.", samples=240_000)
    await until(lambda: "bot-started-speaking" in client.types)
    ask(client, "eval-cancel", {})
    await testing.over()
    assert client.closed is not None
    assert client.closed[0] == 1000
    assert testing.admission.released == [("s1", True)]


async def test_other_client_messages_stay_the_applications(testing: Any, until: Any) -> None:
    _, client = await testing.connect(json_wire=True)
    ask(client, "eval-something", {"x": 1})
    await until(lambda: testing.stages.got("llm", ClientMessage))
    assert [message.type for message in testing.stages.got("llm", ClientMessage)] == ["client-message"]
