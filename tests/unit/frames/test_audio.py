from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtvi_actors.frames.audio import (
    Resampler,
    bytes_to_ms,
    fade_out,
    ms_to_bytes,
    ms_to_samples,
    rms,
    sample_count,
    samples_to_ms,
)

pytestmark = pytest.mark.unit


def tone(rate_hz: int, tone_hz: float = 440, seconds: float = 0.5, level: float = 8_000) -> bytes:
    time = np.arange(int(rate_hz * seconds)) / rate_hz
    return np.rint(level * np.sin(2 * np.pi * tone_hz * time)).astype("<i2").tobytes()


def samples(pcm: bytes) -> npt.NDArray[np.int16]:
    return np.frombuffer(pcm, dtype="<i2")


def loudest_hz(pcm: bytes, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples(pcm).astype(float)))
    return float(np.argmax(spectrum) * rate_hz / sample_count(pcm))


def resample(resampler: Resampler, pcm: bytes) -> bytes:
    return resampler.push(pcm) + resampler.flush()


class TestLengths:
    @given(st.integers(0, 10_000_000), st.integers(8_000, 48_000))
    def test_samples_survive_the_way_through_ms_within_one(self, count: int, rate_hz: int) -> None:
        assert abs(ms_to_samples(samples_to_ms(count, rate_hz), rate_hz) - count) <= 1

    def test_known_lengths(self) -> None:
        assert ms_to_samples(40, 24_000) == 960
        assert ms_to_bytes(40, 24_000) == 1_920
        assert bytes_to_ms(1_920, 24_000) == 40.0
        assert samples_to_ms(512, 16_000) == 32.0
        assert sample_count(b"\x00\x00\x00") == 1

    def test_ms_never_cut_a_sample(self) -> None:
        assert ms_to_bytes(0.1, 16_000) == 2


class TestRms:
    def test_of_nothing(self) -> None:
        assert rms(b"") == 0.0

    def test_of_a_tone(self) -> None:
        assert rms(tone(16_000, level=10_000)) == pytest.approx(7_071, rel=0.01)

    def test_of_the_lowest_value(self) -> None:
        assert rms(b"\x00\x80" * 10) == 32_768.0


class TestFadeOut:
    def test_only_the_end_falls_and_to_silence(self) -> None:
        flat = np.full(2_400, 10_000, dtype="<i2")
        faded = samples(fade_out(flat.tobytes(), 20, 24_000))
        assert np.array_equal(faded[:1_920], flat[:1_920])
        assert np.all(np.diff(faded[1_920:]) < 0)
        assert faded[-1] == 0

    def test_shorter_than_the_fade(self) -> None:
        faded = samples(fade_out(np.full(10, -5_000, dtype="<i2").tobytes(), 20, 24_000))
        assert faded.size == 10
        assert faded[0] == -4_500
        assert faded[-1] == 0

    @given(st.binary(max_size=200).filter(lambda pcm: len(pcm) % 2 == 0), st.integers(0, 50))
    def test_no_sample_grows(self, pcm: bytes, ms: int) -> None:
        before, after = samples(pcm).astype(int), samples(fade_out(pcm, ms, 8_000)).astype(int)
        assert np.all(np.abs(after) <= np.abs(before))


class TestResampler:
    @pytest.mark.parametrize(
        ("from_hz", "to_hz"), [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (24_000, 48_000), (24_000, 8_000)]
    )
    def test_length_pitch_and_level_are_kept(self, from_hz: int, to_hz: int) -> None:
        out = resample(Resampler(from_hz, to_hz), tone(from_hz))
        assert sample_count(out) == pytest.approx(to_hz / 2, abs=1)
        assert loudest_hz(out, to_hz) == pytest.approx(440, abs=3)
        assert rms(out) == pytest.approx(8_000 / 2**0.5, rel=0.02)

    def test_what_the_target_cannot_carry_is_not_folded_into_it(self) -> None:
        assert rms(resample(Resampler(48_000, 16_000), tone(48_000, tone_hz=12_000))) < 20

    @given(st.lists(st.integers(0, 19_200), max_size=10), st.sampled_from([1, 2]))
    @settings(max_examples=25, deadline=None)
    def test_any_cutting_gives_the_same_sound(self, cuts: list[int], channels: int) -> None:
        pcm = tone(48_000, seconds=0.2)
        whole = resample(Resampler(48_000, 16_000, channels), pcm)
        resampler = Resampler(48_000, 16_000, channels)
        pieces = [resampler.push(pcm[start:end]) for start, end in itertools.pairwise(sorted({0, len(pcm), *cuts}))]
        assert b"".join(pieces) + resampler.flush() == whole

    def test_stereo_becomes_the_mean(self) -> None:
        left, right = samples(tone(16_000)), np.zeros(8_000, dtype="<i2")
        stereo = np.stack([left, right], axis=1).astype("<i2").tobytes()
        out = resample(Resampler(16_000, 16_000, channels=2), stereo)
        assert np.max(np.abs(samples(out) - left / 2)) <= 1

    def test_nothing_to_do_passes_the_bytes(self) -> None:
        resampler = Resampler(16_000, 16_000)
        pcm = tone(16_000)
        assert resampler.push(pcm[:101]) == pcm[:100]
        assert resampler.push(pcm[101:200]) == pcm[100:200]
        assert resampler.flush() == b""

    def test_full_scale_does_not_wrap_round(self) -> None:
        square = np.where(np.arange(4_800) % 480 < 240, 32_767, -32_768).astype("<i2").tobytes()
        out = samples(resample(Resampler(48_000, 16_000), square)).astype(int)
        # A wrap is a jump of nearly the whole range inside a half wave (80 samples at 16 kHz).
        inner = out[10:70]
        assert np.max(np.abs(np.diff(inner))) < 20_000
        assert out.max() == 32_767

    def test_after_flush_a_new_stream_begins(self) -> None:
        resampler = Resampler(48_000, 16_000)
        pcm = tone(48_000)
        first = resample(resampler, pcm)
        resampler.push(b"\x01")
        resampler.flush()
        assert resample(resampler, pcm) == first

    def test_flush_without_sound(self) -> None:
        assert Resampler(48_000, 16_000).flush() == b""
        assert Resampler(48_000, 16_000).push(b"") == b""

    @pytest.mark.parametrize(
        "arguments", [(7_999, 16_000), (16_000, 48_001), (16_000, 0), (16_000, 16_000, 3), (16_000, 16_000, 0)]
    )
    def test_out_of_bounds(self, arguments: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="possible"):
            Resampler(*arguments)


def test_counting_samples_imports_no_numpy() -> None:
    script = (
        "import sys; from rtvi_actors.frames import audio, codec; audio.ms_to_bytes(40, 24_000);"
        "audio.Resampler(16_000, 16_000).push(b'ab'); sys.exit('numpy' in sys.modules or 'soxr' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
