"""The JSON wire: text as it is, no audio out before it is asked for, and nothing binary."""

from __future__ import annotations

import base64
import json

import pytest

from rtvi_actors.edge.json_wire import JsonWire
from rtvi_actors.edge.limits import Problem
from rtvi_actors.edge.wire import MessageIn, ProtobufWire

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "{}", "no json", "é\U0001f600"])
def test_a_text_message_is_an_rtvi_message_as_it_is_both_ways(text: str) -> None:
    assert JsonWire().decode(text) == MessageIn(text)
    assert JsonWire().encode_message(text) == text


def test_a_message_of_the_other_kind_is_a_problem_on_both_wires() -> None:
    binary, text = JsonWire().decode(b"{}"), ProtobufWire().decode("{}")
    assert isinstance(binary, Problem)
    assert isinstance(text, Problem)
    assert (binary.kind, text.kind) == ("binary-frame", "text-frame")


def test_audio_goes_out_only_once_it_is_asked_for() -> None:
    wire = JsonWire()
    pcm = bytes(range(256)) * 7 + b"\x01\x02"
    assert wire.encode_audio(pcm, 24_000) is None
    wire.carry_audio()
    message = json.loads(wire.encode_audio(pcm, 24_000) or "")
    assert message == {
        "label": "rtvi-ai",
        "type": "eval-bot-audio",
        "data": {"audio": base64.b64encode(pcm).decode(), "sampleRate": 24_000},
    }
