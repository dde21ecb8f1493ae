from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tracemalloc
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.errors import FrameDecodeError
from rtvi_actors.frames.codec import MAX_DEPTH, MAX_FRAME_BYTES, MAX_INT, MAX_ITEMS, FrameDecoder, FrameEncoder, encode
from rtvi_actors.frames.types import KINDS, Attach, Audio, BotAudio, Cancel, Frame, Marks, Metrics, Ping, ServiceUpdate

pytestmark = pytest.mark.unit

UNSIGNED = st.integers(0, MAX_INT)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), MAX_INT) | st.floats(allow_nan=False) | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
BY_HINT: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: UNSIGNED,
    bool: st.booleans(),
    bytes: st.binary(max_size=64),
    float: st.floats(allow_nan=False),
    dict[str, list[str]]: st.dictionaries(TEXT, st.lists(TEXT, max_size=3), max_size=3),
    dict[str, Any]: st.dictionaries(TEXT, PLAIN, max_size=3),
    list[Any]: st.lists(PLAIN, max_size=4),
}


def frames_of(cls: type[Frame]) -> st.SearchStrategy[Frame]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: BY_HINT[hints[field.name]] for field in dataclasses.fields(cls)})


ANY_FRAME = st.sampled_from(list(KINDS.values())).flatmap(frames_of)
AUDIO = Audio(512, b"\x01\x02" * 512, session="s1", epoch=1, turn=2, attempt=3, seq=4, sent_ns=5)


def wire(*values: Any) -> bytes:
    return msgpack.packb(list(values))


def header(kind: int) -> tuple[Any, ...]:
    return (kind, "s1", 1, 2, 3, 4, 5)


def feed_all(decoder: FrameDecoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        decoder.feed(piece)


class TestRoundTrip:
    @pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.__name__)
    def test_every_frame_comes_back_equal(self, cls: type[Frame]) -> None:
        @given(frames_of(cls))
        @settings(max_examples=20)
        def check(frame: Frame) -> None:
            assert FrameDecoder().feed(encode(frame)) == [frame]

        check()

    def test_layout_on_the_wire(self) -> None:
        assert msgpack.unpackb(encode(AUDIO)) == [20, "s1", 1, 2, 3, 4, 5, 512, b"\x01\x02" * 512]

    def test_sent_ns_is_stamped_and_the_frame_left_alone(self) -> None:
        [frame] = FrameDecoder().feed(encode(AUDIO, sent_ns=77))
        assert frame == dataclasses.replace(AUDIO, sent_ns=77)
        assert AUDIO.sent_ns == 5

    def test_an_integer_in_a_float_field_becomes_a_float(self) -> None:
        [frame] = FrameDecoder().feed(FrameEncoder().encode(Metrics("stt", "ttfb_ms", 12)))
        assert isinstance(frame, Metrics)
        assert type(frame.value) is float
        assert frame.value == 12.0

    def test_marks_come_back_as_lists(self) -> None:
        [frame] = FrameDecoder().feed(encode(Marks(0, [[0, 0], (480, 3)])))
        assert frame == Marks(0, [[0, 0], [480, 3]])

    def test_the_largest_request_passes(self) -> None:
        frame = Audio(0, bytes(960_000))
        assert FrameDecoder().feed(encode(frame)) == [frame]


class TestStream:
    @given(st.lists(ANY_FRAME, max_size=4), st.lists(st.integers(0, 2_000), max_size=12))
    @settings(max_examples=100)
    def test_any_split_gives_the_same_frames(self, frames: list[Frame], cuts: list[int]) -> None:
        stream = b"".join(map(encode, frames))
        places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
        decoder = FrameDecoder()
        out = [frame for start, end in itertools.pairwise(places) for frame in decoder.feed(stream[start:end])]
        assert out == frames

    def test_byte_by_byte(self) -> None:
        decoder = FrameDecoder()
        stream = encode(AUDIO) + encode(Ping(3))
        assert [frame for byte in stream for frame in decoder.feed(bytes([byte]))] == [AUDIO, Ping(3)]

    def test_more_in_one_piece_than_the_buffer_holds(self) -> None:
        frames = [Audio(n, bytes(900_000)) for n in range(8)]
        assert FrameDecoder().feed(b"".join(map(encode, frames))) == frames

    def test_a_memoryview_of_a_shared_buffer_is_copied(self) -> None:
        data = encode(AUDIO)
        buffer = bytearray(data)
        decoder = FrameDecoder()
        assert decoder.feed(memoryview(buffer)[:100]) == []
        buffer[:100] = bytes(100)
        assert decoder.feed(memoryview(buffer)[100 : len(data)]) == [AUDIO]

    def test_unknown_kinds_are_counted_and_skipped(self) -> None:
        decoder = FrameDecoder()
        stream = wire(999, "whatever") + encode(Ping(1)) + wire(1_000) + encode(Ping(2))
        assert decoder.feed(stream) == [Ping(1), Ping(2)]
        assert decoder.unknown_frames == 2


class TestHostile:
    @given(st.binary(max_size=200))
    @settings(max_examples=300)
    def test_any_bytes_decode_or_raise_frame_decode_error(self, data: bytes) -> None:
        with contextlib.suppress(FrameDecodeError):
            FrameDecoder().feed(data)

    @given(ANY_FRAME, st.data())
    @settings(max_examples=200)
    def test_a_damaged_frame_decodes_or_raises_frame_decode_error(self, frame: Frame, data: st.DataObject) -> None:
        damaged = bytearray(encode(frame))
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        decoder = FrameDecoder()
        try:
            decoder.feed(bytes(damaged))
        except FrameDecodeError:
            with pytest.raises(FrameDecodeError):
                decoder.feed(encode(frame))

    @given(st.sampled_from(sorted(KINDS)), st.lists(PLAIN, max_size=12))
    @settings(max_examples=300)
    def test_wrong_fields_decode_or_raise_frame_decode_error(self, kind: int, values: list[Any]) -> None:
        try:
            [frame] = FrameDecoder().feed(wire(kind, *values))
        except FrameDecodeError:
            return
        assert FrameDecoder().feed(encode(frame)) == [frame]

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"\xc1", id="reserved byte"),
            pytest.param(b"\x05", id="no array"),
            pytest.param(b"\x90", id="empty array"),
            pytest.param(wire("20"), id="kind is text"),
            pytest.param(wire(True), id="kind is bool"),
            pytest.param(wire(-1), id="kind is negative"),
            pytest.param(wire(*header(20), 1), id="field missing"),
            pytest.param(wire(*header(20), 1, b"", 1), id="field too many"),
            pytest.param(wire(*header(20), True, b""), id="bool for int"),
            pytest.param(wire(*header(20), 1.0, b""), id="float for int"),
            pytest.param(wire(*header(20), -1, b""), id="negative"),
            pytest.param(wire(*header(20), 2**63, b""), id="2**63"),
            pytest.param(wire(*header(20), 1, "text"), id="text for bytes"),
            pytest.param(wire(*header(20), None, b""), id="nil"),
            pytest.param(wire(20, b"s1", 1, 2, 3, 4, 5, 1, b""), id="session is bytes"),
            pytest.param(wire(20, "s1", 2**64 - 1, 2, 3, 4, 5, 1, b""), id="epoch too large"),
            pytest.param(wire(*header(15), "stt", "ttfb_ms", 1), id="int for float"),
            pytest.param(wire(*header(10), {"stt": "a"}, "b", {}, b"", b""), id="route without lists"),
            pytest.param(wire(*header(10), {b"stt": ["a"]}, "b", {}, b"", b""), id="key is bytes"),
            pytest.param(wire(*header(10), [], "b", {}, b"", b""), id="list for dict"),
            pytest.param(wire(*header(45), 1, {}), id="dict for list"),
            pytest.param(b"\x91\xa2\xff\xff", id="not UTF-8"),
            pytest.param(b"\x91\x81\x01\x01", id="integer key"),
            pytest.param(b"\x92\x14\xd4\x01\x01", id="extension"),
            pytest.param(b"\x92\x14\xc7\x00\x01", id="empty extension"),
            pytest.param(b"\x92\x14\xd6\xff\x00\x00\x00\x00", id="timestamp"),
            pytest.param(b"\x91" * 3_000, id="nested for ever"),
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        decoder = FrameDecoder()
        with pytest.raises(FrameDecodeError):
            decoder.feed(data)
        with pytest.raises(FrameDecodeError, match="before"):
            decoder.feed(encode(AUDIO))

    @pytest.mark.parametrize(
        "prefix",
        [
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\xdc\xff\xff" * 1_000,
        ],
        ids=["array", "map", "bytes", "text", "arrays in arrays"],
    )
    def test_a_hostile_length_allocates_nothing_big(self, prefix: bytes) -> None:
        decoder = FrameDecoder()
        tracemalloc.start()
        try:
            with pytest.raises(FrameDecodeError):
                feed_all(decoder, [prefix, *[bytes(65_536)] * (2 * MAX_FRAME_BYTES // 65_536)])
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 4 * MAX_FRAME_BYTES

    @pytest.mark.parametrize(
        ("opening", "filling"),
        [
            (b"\xdc\x10\x00", b"\x80" * 4_096),
            (b"\xdc\x10\x00", b"\xdc\x10\x00" + b"\x91\xc0" * 4_096),
            (b"\x92\x14", b"\xdc\x10\x00" * 100),
        ],
        ids=["maps", "arrays", "open arrays"],
    )
    def test_a_frame_that_never_ends_is_given_up(self, opening: bytes, filling: bytes) -> None:
        decoder = FrameDecoder()
        decoder.feed(opening)
        with pytest.raises(FrameDecodeError):
            feed_all(decoder, [filling] * (MAX_FRAME_BYTES // len(filling) + 1))

    def test_a_frame_too_large_is_refused_however_it_comes(self) -> None:
        data = wire(*header(20), 0, bytes(MAX_FRAME_BYTES))
        with pytest.raises(FrameDecodeError, match="bytes"):
            FrameDecoder().feed(data)
        decoder = FrameDecoder()
        with pytest.raises(FrameDecodeError, match="bytes"):
            feed_all(decoder, [data[start : start + 100_000] for start in range(0, len(data), 100_000)])


class TestSender:
    @pytest.mark.parametrize(
        ("frame", "fault"),
        [
            (Audio(-1, b""), r"Audio.first_sample = -1 is not from 0"),
            (Audio(2**63, b""), r"Audio.first_sample = 9223372036854775808 is not"),
            (Audio(True, b""), r"Audio.first_sample is bool; it must be int"),
            (Audio(0, bytearray(2)), r"Audio.pcm is bytearray; it must be bytes"),  # type: ignore[arg-type]
            (BotAudio(0, 0, b"", session=None), r"BotAudio.session is NoneType"),  # type: ignore[arg-type]
            (Cancel(1, "x", turn=-5), r"Cancel.turn = -5"),
            (Metrics("stt", "ttfb_ms", "1"), r"Metrics.value is str; it must be float"),  # type: ignore[arg-type]
            (Attach({"stt": "a"}, "bot"), r"Attach.route: str where a list belongs"),  # type: ignore[dict-item]
            (ServiceUpdate("llm", {"a": {1, 2}}), r"ServiceUpdate.options: set cannot travel"),
            (ServiceUpdate("llm", {"a": 2**70}), r"ServiceUpdate.options: an integer of more than 64 bits"),
            (Marks(0, [0] * (MAX_ITEMS + 1)), r"Marks.marks: 4097 items"),
            (Audio(0, bytes(MAX_FRAME_BYTES)), r"Audio has 2097.* bytes"),
            (Cancel(1, "\ud800"), "surrogates"),
        ],
    )
    def test_what_a_peer_would_refuse_is_not_sent(self, frame: Frame, fault: str) -> None:
        with pytest.raises(ValueError, match=fault):
            encode(frame)

    def test_depth_is_bounded_alike_on_both_sides(self) -> None:
        deepest: dict[str, Any] = {}
        for _ in range(MAX_DEPTH - 1):
            deepest = {"a": deepest}
        frame = ServiceUpdate("llm", deepest)
        assert FrameDecoder().feed(encode(frame)) == [frame]
        with pytest.raises(ValueError, match="deeper"):
            encode(ServiceUpdate("llm", {"a": deepest}))
        with pytest.raises(FrameDecodeError, match="deeper"):
            FrameDecoder().feed(wire(*header(62), "llm", {"a": deepest}))

    def test_a_refused_frame_leaves_the_encoder_usable(self) -> None:
        encoder = FrameEncoder()
        with pytest.raises(ValueError, match="surrogates"):
            encoder.encode(Cancel(1, "\ud800"))
        assert FrameDecoder().feed(encoder.encode(AUDIO)) == [AUDIO]
