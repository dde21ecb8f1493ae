from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.rtvi.messages import (
    ClientCustom,
    ClientReady,
    DisconnectBot,
    EnvelopeError,
    Message,
    RawAudio,
    RequestError,
    SendText,
    error,
    parse,
    request_of,
    to_json,
)

pytestmark = pytest.mark.unit

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def envelope(**members: Any) -> str:
    return json.dumps({"label": "rtvi-ai", "type": "client-message", "id": "1", "data": {}} | members)


def refusal(text: str | bytes, max_depth: int = 32) -> Message | None:
    with pytest.raises(EnvelopeError) as caught:
        parse(text, max_depth=max_depth)
    return caught.value.reply


def refused(kind: str, data: dict[str, Any] | None) -> Message:
    with pytest.raises(RequestError) as caught:
        request_of(Message(kind, data, "7"))
    return caught.value.reply


def test_members_come_in_the_order_of_the_clients() -> None:
    assert to_json(Message("t", {"b": 1}, "x")) == '{"label":"rtvi-ai","type":"t","data":{"b":1},"id":"x"}'


def test_only_absent_members_are_left_out() -> None:
    assert to_json(Message("t")) == '{"label":"rtvi-ai","type":"t"}'
    assert to_json(Message("t", {"d": None})) == '{"label":"rtvi-ai","type":"t","data":{"d":null}}'
    assert to_json(Message("t", {})) == '{"label":"rtvi-ai","type":"t","data":{}}'


def test_an_error_tells_its_text_under_both_names() -> None:
    assert error("no", fatal=True).data == {"error": "no", "message": "no", "fatal": True}


@pytest.mark.parametrize(("data", "kept"), [({"t": 1}, {"t": 1}), (None, None)])
def test_a_good_message(data: Any, kept: Any) -> None:
    assert parse(envelope(data=data, extra=1), max_depth=32) == Message("client-message", kept, "1")
    assert parse(envelope(data=data).encode(), max_depth=32) == Message("client-message", kept, "1")


def test_data_may_be_absent() -> None:
    assert parse('{"label":"rtvi-ai","type":"t","id":""}', max_depth=1) == Message("t", None, "")


@pytest.mark.parametrize(
    "text", ["[]", "3", '"rtvi-ai"', "null", "{}", envelope(label="rtvi"), envelope(label=None), envelope(label=["rtvi-ai"])]
)
def test_what_is_not_for_us_gets_no_answer(text: str) -> None:
    assert refusal(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (envelope(id=None), "id must be a string"),
        (envelope(id=3), "id must be a string"),
        ('{"label":"rtvi-ai","type":"t"}', "id must be a string"),
        (envelope(type=None), "type must be a string"),
        (envelope(type=["t"]), "type must be a string"),
        (envelope(data=[]), "data must be an object"),
        (envelope(data="x"), "data must be an object"),
        (envelope(data=False), "data must be an object"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("9" * 5_000, "not valid JSON"),
        ("[" * 100_000, "nests too deep"),
        ('{"a":' * 100_000, "nests too deep"),
    ],
)
def test_a_broken_envelope_gets_an_error_that_is_not_fatal(text: str | bytes, why: str) -> None:
    reply = refusal(text)
    assert reply is not None
    assert (reply.type, reply.id) == ("error", None)
    assert reply.data == {"error": f"Invalid message: {reply.data['error'][17:]}", "message": reply.data["error"], "fatal": False}
    assert why in reply.data["error"]


def nested(depth: int) -> str:
    """A message of which the JSON nests ``depth`` deep, with brackets in strings that do not count."""
    return envelope(data={"[{\\": ']}"[[[[[[', "d": json.loads("[" * (depth - 2) + "]" * (depth - 2))} if depth > 2 else {})


@pytest.mark.parametrize("depth", [2, 3, 7, 32])
def test_depth_is_limited_exactly(depth: int) -> None:
    assert parse(nested(depth), max_depth=depth).type == "client-message"
    reply = refusal(nested(depth + 1), max_depth=depth)
    assert reply is not None
    assert "too deep" in reply.data["error"]


def test_wide_is_not_deep() -> None:
    wide = envelope(data={"d": [[{}] * 50] * 50})
    assert parse(wide, max_depth=5).type == "client-message"
    assert refusal(wide, max_depth=4) is not None


def test_numbers_that_are_none_and_huge_ones_are_taken() -> None:
    data = parse(
        '{"label":"rtvi-ai","type":"t","id":"1","id":"2","data":{"a":NaN,"b":-Infinity,"c":1e999,"d":123456789012345678901234567890,"e":1.5}}',
        max_depth=4,
    )
    assert data == Message("t", {"a": None, "b": None, "c": None, "d": 123456789012345678901234567890, "e": 1.5}, "2")


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    message = parse(
        r'{"label":"rtvi-ai","type":"t","id":"\udc00","data":{"a":"\ud83d\ude00","b":"x\ud83d\\ud83dy\uD83D\u0041"}}', max_depth=4
    )
    assert message.id == "\ufffd"
    assert message.data == {"a": "\U0001f600", "b": "x\ufffd\\ud83dy\ufffdA"}


@settings(deadline=None)
@given(JSON)
def test_any_payload_survives(payload: Any) -> None:
    message = parse(to_json(Message("t", {"d": payload}, "1")), max_depth=200)
    assert (message.type, message.id) == ("t", "1")
    assert json.loads(to_json(message))["data"] == message.data


@settings(deadline=None)
@given(st.text() | st.binary())
def test_any_input_is_read_or_refused(text: str | bytes) -> None:
    reply = None
    try:
        parse(text, max_depth=8)
    except EnvelopeError as refused:
        reply = refused.reply
    assert reply is None or reply.type == "error"


def test_requests_that_are_known() -> None:
    assert request_of(Message("client-ready", None, "1")) == ClientReady()
    assert request_of(Message("disconnect-bot", {}, "1")) == DisconnectBot()
    assert request_of(Message("client-message", {"t": "a", "d": [1]}, "1")) == ClientCustom("a", [1])
    assert request_of(Message("client-message", {"t": "a"}, "1")) == ClientCustom("a", None)
    assert request_of(Message("send-text", {"content": "hi"}, "1")) == SendText("hi", True, True)


@pytest.mark.parametrize(
    ("given", "taken"),
    [(True, True), (False, False), (0, False), (1, True), (1.0, True), ("true", True), ("FALSE", False), (None, True)],
)
def test_booleans_are_read_as_the_reference_reads_them(given: Any, taken: bool) -> None:
    sent = Message("send-text", {"content": "", "options": {"run_immediately": given, "audio_response": given}}, "1")
    assert request_of(sent) == SendText("", taken, taken)


@pytest.mark.parametrize("options", [{"run_immediately": "maybe"}, {"audio_response": 2}, {"audio_response": []}, [], "x", 0])
def test_wrong_options_are_refused(options: Any) -> None:
    reply = refused("send-text", {"content": "hi", "options": options})
    assert (reply.type, reply.id) == ("error-response", "7")
    assert reply.data["error"].startswith("Invalid message: ")


@pytest.mark.parametrize(
    ("kind", "data"), [("send-text", None), ("send-text", {}), ("send-text", {"content": 1}), ("client-message", {"d": 1})]
)
def test_wrong_data_is_refused(kind: str, data: dict[str, Any] | None) -> None:
    reply = refused(kind, data)
    assert reply.id == "7"
    assert reply.data["error"].startswith("Invalid message: ")


@pytest.mark.parametrize("kind", ["bot-ready", "user-transcription", "no-such-type", "", "Send-Text"])
def test_types_that_clients_do_not_send_are_refused(kind: str) -> None:
    assert refused(kind, {}) == Message("error-response", {"error": f"Unsupported type {kind}"}, "7")


def test_raw_audio_is_what_was_encoded() -> None:
    message = Message("raw-audio", {"base64Audio": "AQIDBA==", "sampleRate": 16_000, "numChannels": 1}, "1")
    assert request_of(message) == RawAudio(b"\x01\x02\x03\x04", 16_000, 1)
    batch = Message("raw-audio-batch", {"base64AudioBatch": ["AQI=", "AwQ="], "sampleRate": 8_000, "numChannels": 2}, "1")
    assert request_of(batch) == RawAudio(b"\x01\x02\x03\x04", 8_000, 2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"base64Audio": "AQIDB"}, "base64Audio is not valid base64"),
        ({"base64Audio": "AQ\nID"}, "base64Audio is not valid base64"),
        ({"base64Audio": None}, "base64Audio must be a string"),
        ({"sampleRate": "16000"}, "sampleRate must be an integer"),
        ({"numChannels": True}, "numChannels must be an integer"),
    ],
)
def test_raw_audio_that_cannot_be_read_is_refused(change: dict[str, Any], problem: str) -> None:
    data = {"base64Audio": "AQIDBA==", "sampleRate": 16_000, "numChannels": 1} | change
    with pytest.raises(RequestError) as refused:
        request_of(Message("raw-audio", data, "1"))
    assert refused.value.reply.id == "1"
    assert refused.value.reply.data["error"].startswith(f"Invalid message: {problem}")
