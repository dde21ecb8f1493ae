from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.stt.segments import MAX_PART_SAMPLES, MIN_PART_SAMPLES, TurnAudio, cut_sample, join_texts, loudness

pytestmark = pytest.mark.unit

PIECE = 512
ROOM = 120 * 16_000


def ramp(first: int, count: int) -> bytes:
    """Samples that tell their own number."""
    return array("h", [(first + at) % 30_000 for at in range(count)]).tobytes()


def loud(seconds: float) -> bytearray:
    return bytearray(array("h", [8_000, -8_000]).tobytes() * int(seconds * 8_000))


def silence(pcm: bytearray, begin_s: float, end_s: float) -> bytes:
    pcm[int(begin_s * 32_000) : int(end_s * 32_000)] = bytes(int(end_s * 32_000) - int(begin_s * 32_000))
    return bytes(pcm)


def test_audio_up_to_a_sample():
    audio = TurnAudio(ROOM)
    for at in range(1_000, 1_000 + 10 * PIECE, PIECE):
        audio.add(at, ramp(at, PIECE))
    assert audio.until(1_000) == b""
    assert audio.until(900) == b""
    assert audio.until(1_700) == ramp(1_000, 700)
    assert audio.until(99_999) == ramp(1_000, 10 * PIECE)
    assert audio.until(1_700) == ramp(1_000, 700), "it stays"


def test_a_gap_is_closed_and_its_samples_are_nobodys():
    audio = TurnAudio(ROOM)
    audio.add(0, ramp(0, 100))
    audio.add(500, ramp(500, 100))
    assert audio.until(50) == ramp(0, 50)
    assert audio.until(300) == ramp(0, 100)
    assert audio.until(550) == ramp(0, 100) + ramp(500, 50)


def test_what_was_had_is_not_taken_twice():
    audio = TurnAudio(ROOM)
    audio.add(0, ramp(0, 100))
    audio.add(50, ramp(50, 100))
    audio.add(20, ramp(20, 30))
    assert audio.until(1_000) == ramp(0, 150)
    assert audio.dropped_samples == 0


def test_no_audio():
    assert TurnAudio(ROOM).until(10) == b""
    assert TurnAudio(ROOM).take_part() == b""


def test_beyond_its_room_new_audio_is_dropped_and_counted():
    audio = TurnAudio(150)
    audio.add(0, ramp(0, 100))
    audio.add(100, ramp(100, 100))
    audio.add(200, ramp(200, 100))
    assert audio.until(1_000) == ramp(0, 150)
    assert audio.dropped_samples == 150


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-50, 80), st.integers(0, 60)), max_size=20), st.integers(0, 2_000))
def test_any_sequence_of_pieces_gives_each_sample_once_and_in_order(steps, last_sample):
    audio, at, had = TurnAudio(ROOM), 100, []
    for step, count in steps:
        at = max(at + step, 0)
        audio.add(at, ramp(at, count))
        had += [sample for sample in range(at, at + count) if not had or sample > had[-1]]
        at += count
    samples = array("h")
    samples.frombytes(audio.until(last_sample))
    assert list(samples) == [sample for sample in had if sample < last_sample]


def test_no_part_before_29_seconds():
    audio = TurnAudio(ROOM)
    audio.add(0, bytes(MAX_PART_SAMPLES * 2))
    assert audio.take_part() == b""


def test_a_part_is_cut_at_the_pause_and_the_rest_stays():
    pcm = silence(loud(30), 24.0, 24.5)
    audio = TurnAudio(ROOM)
    for at in range(0, len(pcm) // 2, PIECE):
        audio.add(at, pcm[at * 2 : (at + PIECE) * 2])
    part = audio.take_part()
    assert 24.0 <= len(part) / 32_000 <= 24.5
    assert part + audio.until(10**9) == pcm
    assert audio.until(len(part) // 2 - 5) == b"", "before the cut nothing is left"
    assert audio.until(len(part) // 2 + 5) == pcm[len(part) : len(part) + 10]
    assert audio.take_part() == b""


@pytest.mark.parametrize(
    ("begin_s", "end_s"), [(20.0, 20.4), (23.31, 23.7), (28.6, 29.0)], ids=["at the start", "inside", "at the end"]
)
def test_the_quietest_300_ms_are_found(begin_s, end_s):
    cut_s = cut_sample(silence(loud(29), begin_s, end_s)) / 16_000
    assert begin_s <= cut_s <= end_s


def test_a_pause_before_20_seconds_is_no_place_to_cut():
    assert cut_sample(silence(loud(29), 5.0, 19.0)) >= MIN_PART_SAMPLES


def test_of_equally_quiet_places_the_latest_is_taken():
    assert 28.8 <= cut_sample(bytes(29 * 32_000)) / 16_000 <= 29


def test_what_is_too_short_cannot_be_cut():
    with pytest.raises(ValueError, match="too short"):
        cut_sample(bytes(20 * 32_000 + 100))


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["", " "], ""),
        (["one"], "one"),
        (["one", "", " two "], "one two"),
        (["and then...", "we went…", "home..."], "and then we went home..."),
        (["...", "home"], "home"),
    ],
)
def test_joining(texts, joined):
    assert join_texts(texts) == joined


def test_places_count_what_was_taken_but_not_the_gaps():
    audio = TurnAudio(10**6)
    audio.add(100, b"ab" * 512)
    audio.add(2_000, b"cd" * 512)
    assert audio.length == 1_024
    assert audio.between(511, 514) == b"abcdcd"
    assert audio.between(1_000, 9_999) == b"cd" * 24
    audio.add(3_000, bytes(30 * 32_000))
    part = audio.take_part()
    assert audio.taken == len(part) // 2
    assert audio.between(0, audio.taken) == b""
    assert len(audio.between(0, audio.length)) == 2 * (audio.length - audio.taken)


def test_loudness():
    assert loudness(b"") == loudness(b"x") == 0.0
    assert loudness(array("h", [-300, 0, 0, 0] * 128).tobytes()) == 300.0
