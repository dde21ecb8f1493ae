"""The protobuf wire: captured bytes of the JavaScript client, round trips, and everything that is not a frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.edge.limits import Problem
from rtvi_actors.edge.wire import AudioIn, Ignored, MessageIn, decode, encode_audio, encode_message

pytestmark = pytest.mark.unit

PCM = b"12345678"


def test_audio_has_the_bytes_that_the_javascript_client_sends() -> None:
    assert encode_audio(PCM, 16_000) == bytes.fromhex("12161205617564696f1a08") + PCM + bytes.fromhex("20807d2801")


def test_message_has_the_bytes_that_the_javascript_client_sends() -> None:
    assert encode_message("{}") == bytes.fromhex("22040a02") + b"{}"


@given(st.binary(max_size=64), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_audio_comes_back_as_labelled(pcm: bytes, rate_hz: int, channels: int) -> None:
    assert decode(encode_audio(pcm, rate_hz, channels)) == AudioIn(pcm, rate_hz, channels)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_message_comes_back(text: str) -> None:
    assert decode(encode_message(text)) == MessageIn(text)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", "empty", id="nothing"),
        pytest.param(b"\x32\x00", "empty", id="a frame of a newer protocol"),
        pytest.param(b"hello", "malformed", id="text"),
        pytest.param(b"\xff" * 40, "malformed", id="ones"),
        pytest.param(bytes(10), "malformed", id="zeros"),
        pytest.param(b"\x12\x7f\x1a\x08", "malformed", id="cut off"),
        pytest.param(b"\x22\x03\x0a\x01\xff", "malformed", id="message that is not UTF-8"),
    ],
)
def test_what_is_no_frame_is_a_problem(data: bytes, kind: str) -> None:
    problem = decode(data)
    assert isinstance(problem, Problem)
    assert problem.kind == kind


@pytest.mark.parametrize(("tag", "kind"), [(b"\x0a", "text"), (b"\x1a", "transcription"), (b"\x2a", "interruption")])
def test_frames_of_the_other_direction_are_ignored(tag: bytes, kind: str) -> None:
    assert decode(tag + b"\x00") == Ignored(kind)


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_a_value(data: bytes) -> None:
    assert isinstance(decode(data), AudioIn | MessageIn | Ignored | Problem)
