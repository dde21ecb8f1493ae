"""What a broken or hostile client sends over the real socket, the answer to it, and that its session goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rtvi_actors.edge.wire import MessageIn, decode, encode_audio, encode_message
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing.client import Received, RtviClient

pytestmark = pytest.mark.system

Answered = Callable[[RtviClient, str], Awaitable[str]]

MAX_MESSAGE_BYTES = 1_200_000
LISTEN = 100
"""Samples of silence in a good piece of audio."""


def message(**members: Any) -> bytes:
    """An RTVI message with these members; ``label`` and ``id`` are right unless given."""
    return encode_message(json.dumps({"label": "rtvi-ai", "id": "bad-1", **members}))


def without(key: str) -> bytes:
    members = {"label": "rtvi-ai", "id": "bad-1", "type": "send-text", "data": {"content": "x"}}
    del members[key]
    return encode_message(json.dumps(members))


def nested(depth: int) -> str:
    return '{"label":"rtvi-ai","type":"client-message","id":"bad-1","data":{"t":"x","d":' + "[" * depth + "]" * depth + "}}"


def complaints(client: RtviClient, start: int = 0) -> list[Received]:
    return [received for received in client.messages[start:] if received.type in {"error", "error-response"}]


# What it sends -> part of the text of the `error`.
TOLD = {
    "protobuf garbage": (b"\xff\xfe\xfd\xfc", "not a valid pipecat.Frame"),
    "a truncated frame": (encode_audio(bytes(640), 16_000)[:50], "not a valid pipecat.Frame"),
    "an empty binary message": (b"", "no frame that is known"),
    "an unknown protobuf field": (b"\x9a\x06\x03abc", "no frame that is known"),
    "JSON in a text frame": ('{"label":"rtvi-ai","type":"client-ready","id":"1"}', "Text frame dropped"),
    "an empty text frame": ("", "Text frame dropped"),
    "audio of odd length": (encode_audio(bytes(641), 16_000), "not a whole number"),
    "stereo audio of half a frame": (encode_audio(bytes(642), 16_000, 2), "not a whole number"),
    "audio at 0 Hz": (encode_audio(bytes(640), 0), "8000 to 48000 Hz"),
    "audio at 7,999 Hz": (encode_audio(bytes(640), 7_999), "8000 to 48000 Hz"),
    "audio at 48,001 Hz": (encode_audio(bytes(640), 48_001), "8000 to 48000 Hz"),
    "audio at 4 GHz": (encode_audio(bytes(640), 2**32 - 1), "8000 to 48000 Hz"),
    "audio of no channel": (encode_audio(bytes(640), 16_000, 0), "0 channels"),
    "audio of 3 channels": (encode_audio(bytes(6 * 320), 16_000, 3), "3 channels"),
    "audio of 4 billion channels": (encode_audio(bytes(640), 16_000, 2**32 - 1), "channels"),
    "a minute of audio in one message": (encode_audio(bytes(16_000 * 60), 8_000), "at most 2000 ms"),
    "a message beyond the limit": (encode_message("x" * (MAX_MESSAGE_BYTES + 1)), "at most 1200000"),
    "audio beyond the limit": (encode_audio(bytes(MAX_MESSAGE_BYTES + 2), 48_000), "at most 1200000"),
    "a text frame beyond the limit": ("x" * (MAX_MESSAGE_BYTES + 1), "at most 1200000"),
    "no JSON": (encode_message("{"), "not valid JSON"),
    "no text": (encode_message(""), "not valid JSON"),
    "JSON of 100 levels": (encode_message(nested(100)), "nests too deep"),
    "JSON of 500,000 levels": (encode_message(nested(500_000)), "nests too deep"),
    "JSON of 500,000 open brackets": (encode_message("[" * 500_000), "Invalid message"),
    "no id": (without("id"), "id must be a string"),
    "a number as id": (message(type="send-text", id=7), "id must be a string"),
    "no type": (without("type"), "type must be a string"),
    "a number as type": (message(type=7), "type must be a string"),
    "a string as data": (message(type="send-text", data="x"), "data must be an object"),
    "an array as data": (message(type="send-text", data=[1]), "data must be an object"),
}

# What it sends -> beginning of the text of the `error-response`, which has the request's id.
REFUSED = {
    "an unknown type": (message(type="no-such-type", data={}), "Unsupported type no-such-type"),
    "a type of another case": (message(type="Send-Text", data={"content": "x"}), "Unsupported type Send-Text"),
    "a type that only servers send": (message(type="bot-ready", data={"version": "2.0.0"}), "Unsupported type bot-ready"),
    "a type of other servers": (message(type="append-to-context", data={"role": "user"}), "Unsupported type append-to-context"),
    "a type of 100 KiB": (message(type="t" * 102_400), "Unsupported type ttt"),
    "send-text without content": (message(type="send-text", data={}), "Invalid message:"),
    "send-text without data": (without("data"), "Invalid message:"),
    "send-text of a number": (message(type="send-text", data={"content": 7}), "Invalid message:"),
    "send-text with options that are none": (message(type="send-text", data={"content": "x", "options": 1}), "Invalid message:"),
    "send-text with a flag that is none": (
        message(type="send-text", data={"content": "x", "options": {"run_immediately": "maybe"}}),
        "Invalid message:",
    ),
    "client-message without t": (message(type="client-message", data={"d": 1}), "Invalid message:"),
}

IGNORED = {
    "another label": message(label="other", type="send-text", data={"content": "x"}),
    "no label": without("label"),
    "an array": encode_message("[1, 2]"),
    "a number": encode_message("7"),
    "null": encode_message("null"),
    "a client-message that the bot does not know": message(type="client-message", data={"t": "x", "d": {"y": [1, None]}}),
    "unknown members everywhere": message(type="client-message", data={"t": "x", "z": 1}, extra={"deep": [1]}),
    "silence at 8 kHz": encode_audio(bytes(2 * LISTEN), 8_000),
    "silence in stereo at 48 kHz": encode_audio(bytes(4 * LISTEN), 48_000, 2),
    "no samples": encode_audio(b"", 16_000),
}


def raw_audio(**members: Any) -> str:
    """A raw-audio message with these members; the others are right, and the id."""
    data = {"base64Audio": "AAAA" * 40, "sampleRate": 16_000, "numChannels": 1, **members}
    return json.dumps({"label": "rtvi-ai", "type": "raw-audio", "id": "bad-1", "data": data})


def as_text(messages: dict[str, tuple[Any, str]]) -> dict[str, tuple[str, str]]:
    """Those that are RTVI messages, for the JSON wire."""
    return {
        what: (incoming.text, part)
        for what, (data, part) in messages.items()
        if isinstance(data, bytes) and isinstance(incoming := decode(data), MessageIn)
    }


# The same on the JSON wire, and what can only be wrong there.
JSON_TOLD = as_text(TOLD) | {
    "an empty text frame": ("", "not valid JSON"),
    "a protobuf frame": (encode_audio(bytes(640), 16_000), "Binary frame dropped"),
    "audio of odd length": (raw_audio(base64Audio="AAAA"), "not a whole number"),
    "audio at 4 GHz": (raw_audio(sampleRate=2**32 - 1), "8000 to 48000 Hz"),
    "audio at minus one Hz": (raw_audio(sampleRate=-1), "8000 to 48000 Hz"),
    "audio of 4 billion channels": (raw_audio(numChannels=2**32 - 1), "channels"),
    "a minute of audio in one message": (raw_audio(base64Audio="AAAA" * 200_000, sampleRate=8_000), "at most 2000 ms"),
}
JSON_REFUSED = as_text(REFUSED) | {
    "audio that is no base64": (raw_audio(base64Audio="****"), "Invalid message: base64Audio is not valid base64"),
    "audio that is no string": (raw_audio(base64Audio=[0]), "Invalid message: base64Audio must be a string"),
    "a rate that is no number": (raw_audio(sampleRate="16 kHz"), "Invalid message: sampleRate must be an integer"),
    "no channels": (raw_audio(numChannels=None), "Invalid message: numChannels must be an integer"),
}


@pytest.mark.parametrize("what", JSON_TOLD)
async def test_on_the_json_wire_it_is_told_as_well(shared_app: Any, connected: Any, answered: Answered, what: str) -> None:
    data, part = JSON_TOLD[what]
    async with connected(shared_app.ws_url, wire="json") as client:
        client.send_raw(data)
        await answered(client, "still there")
        [told] = complaints(client)
        assert told.type == "error"
        assert part in told.data["error"]
        assert told.data["fatal"] is False


@pytest.mark.parametrize("what", JSON_REFUSED)
async def test_on_the_json_wire_it_is_refused_as_well(shared_app: Any, connected: Any, answered: Answered, what: str) -> None:
    data, beginning = JSON_REFUSED[what]
    async with connected(shared_app.ws_url, wire="json") as client:
        client.send_raw(data)
        await answered(client, "still there")
        [refusal] = complaints(client)
        assert (refusal.type, refusal.id) == ("error-response", "bad-1")
        assert refusal.data["error"].startswith(beginning)


async def test_the_messages_of_evaluations_mean_nothing_in_production(shared_app: Any, connected: Any, answered: Answered) -> None:
    async with connected(shared_app.ws_url, wire="json", capture_bot_audio=True) as client:
        for kind, data in {
            "eval-configure": {"vad_user_speaking": True, "llm_markers": True},
            "eval-context": {"messages": [{"role": "user", "content": "The code word is banana."}]},
            "eval-image": {"image": "AAAA", "format": "image/png"},
            "eval-cancel": {},
        }.items():
            client.send("client-message", {"t": kind, "d": data})
        answer = await answered(client, "still there")
        assert "banana" not in answer
        assert complaints(client) == []
        assert client.audio == []
        assert not client.closed


@pytest.mark.parametrize("what", TOLD)
async def test_bytes_that_cannot_be_used_are_told_and_the_session_goes_on(
    shared_app: Any, connected: Any, answered: Answered, what: str
) -> None:
    data, part = TOLD[what]
    async with connected(shared_app.ws_url) as client:
        client.send_raw(data)
        await answered(client, "still there")
        [told] = complaints(client)
        assert told.type == "error"
        assert part in told.data["error"]
        assert told.data["message"] == told.data["error"]
        assert told.data["fatal"] is False
        assert told.id is None


@pytest.mark.parametrize("what", REFUSED)
async def test_a_request_that_cannot_be_obeyed_is_refused_by_its_id(
    shared_app: Any, connected: Any, answered: Answered, what: str
) -> None:
    data, beginning = REFUSED[what]
    async with connected(shared_app.ws_url) as client:
        client.send_raw(data)
        await answered(client, "still there")
        [refusal] = complaints(client)
        assert refusal.type == "error-response"
        assert refusal.id == "bad-1"
        assert refusal.data["error"].startswith(beginning)
        assert len(refusal.data["error"]) < 300


@pytest.mark.parametrize("what", IGNORED)
async def test_what_means_nothing_is_passed_over_in_silence(shared_app: Any, connected: Any, answered: Answered, what: str) -> None:
    async with connected(shared_app.ws_url) as client:
        client.send_raw(IGNORED[what])
        await answered(client, "still there")
        assert complaints(client) == []


@pytest.mark.parametrize(
    ("data", "version", "warning"),
    [
        ({"version": "1.0.0"}, "1.0.0", None),
        ({"version": "2.99.0"}, "2.2.0", None),
        ({"version": "3.0.0"}, "2.2.0", "RTVI version 3.0.0 is not compatible"),
        ({"version": "two"}, "2.2.0", "Invalid client version format"),
        ({"version": 2}, "2.2.0", "Client version unknown"),
        ({"version": "2.0.0", "about": "nothing"}, "2.2.0", None),
        (None, "2.2.0", "Client version unknown"),
    ],
)
async def test_every_client_ready_gets_its_bot_ready(
    shared_app: Any, connected: Any, answered: Answered, data: Any, version: str, warning: str | None
) -> None:
    async with connected(shared_app.ws_url) as client:
        start = len(client.messages)
        request = client.send("client-ready", data)
        again = await client.wait_type("bot-ready", start=start)
        assert (again.id, again.data["version"]) == (request, version)
        assert [told.data["error"].startswith(str(warning)) for told in complaints(client)] == ([True] if warning else [])
        await answered(client, "still there")


async def test_one_report_per_kind_and_second(shared_app: Any, connected: Any, answered: Answered) -> None:
    async with connected(shared_app.ws_url) as client:
        started = time.monotonic()
        for _ in range(150):
            client.send_raw(b"\xff")
            client.send_raw("text")
        await answered(client, "still there")
        seconds = time.monotonic() - started
        told = [received.data["error"] for received in complaints(client)]
        for kind in ("not a valid pipecat.Frame", "Text frame"):
            assert 1 <= sum(kind in text for text in told) <= 1 + seconds


async def test_a_flood_of_messages_is_cut_and_the_session_goes_on(shared_app: Any, connected: Any, answered: Answered) -> None:
    flood = encode_message(json.dumps({"label": "rtvi-ai", "type": "client-message", "id": "f", "data": {"t": "x"}}))
    async with connected(shared_app.ws_url) as flooder, connected(shared_app.ws_url) as neighbour:
        for _ in range(6_000):
            flooder.send_raw(flood)
        told = await flooder.wait_type("error")
        assert "messages per second" in told.data["error"]
        await answered(neighbour, "somebody else")
        await _typed_until_answered(flooder, "after the flood")
        assert not flooder.closed


async def test_a_flood_of_audio_is_bounded_and_the_session_goes_on(shared_app: Any, connected: Any, answered: Answered) -> None:
    second = encode_audio(bytes(2 * 16_000), 16_000)
    async with connected(shared_app.ws_url) as flooder, connected(shared_app.ws_url) as neighbour:
        for _ in range(300):
            flooder.send_raw(second)
        await answered(neighbour, "somebody else")
        await answered(flooder, "after the flood")


async def test_many_questions_at_once_are_remembered_and_the_last_one_is_answered(shared_app: Any, connected: Any) -> None:
    questions = [f"question-{number}" for number in range(12)]
    async with connected(shared_app.ws_url) as client:
        for question in questions:
            client.send_text(question)
        asked = await client.wait(lambda received: received.type == "user-llm-text" and questions[-1] in received.data["text"])
        behind = client.messages.index(asked)
        await client.wait_type("bot-stopped-speaking", start=behind)
        answer = "".join(received.data["text"] for received in client.messages[behind:] if received.type == "bot-llm-text")
        assert [word for word in answer.split() if word in questions] == questions
        assert complaints(client) == []


async def test_more_questions_at_once_than_can_wait_are_refused_one_by_one(
    shared_app: Any, connected: Any, answered: Answered
) -> None:
    async with connected(shared_app.ws_url) as client:
        for number in range(60):
            client.send_text(f"question-{number}")
        await client.wait(lambda received: received.type == "error-response" and "texts wait already" in received.data["error"])
        await _typed_until_answered(client, "still there")
        assert all("texts wait already" in told.data["error"] for told in complaints(client))
        assert not client.closed


async def test_a_message_far_beyond_the_limit_ends_its_own_session_only(
    shared_app: Any, connected: Any, answered: Answered, eventually: Any
) -> None:
    async with connected(shared_app.ws_url) as client, connected(shared_app.ws_url) as neighbour:
        client.send_raw(bytes(20 * MAX_MESSAGE_BYTES))
        await eventually(lambda: client.closed, "the connection is closed")
        await answered(neighbour, "somebody else")


async def _typed_until_answered(client: RtviClient, text: str) -> None:
    """What is typed while the budget is used up is dropped as well: so, again and again."""
    for _ in range(60):
        start = len(client.messages)
        client.send_text(text)
        try:
            await client.wait(lambda received: received.type == "bot-llm-text", 1.0, start)
        except RtviActorsError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError("never answered again")
