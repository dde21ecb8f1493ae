import importlib.util
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.speaking import vad
from rtvi_actors.speaking.vad import SETTLED_WINDOWS, WINDOW_BYTES, SileroVad, SpeechGate, VadState
from rtvi_actors.testing import recordings

needs_recordings = pytest.mark.skipif(not recordings.available(), reason="pocketsphinx-testdata is not installed")
needs_model = pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="silero-vad is not installed")

SILENCE_S = 0.5


def windows(pcm: bytes) -> list[bytes]:
    return [pcm[at : at + WINDOW_BYTES] for at in range(0, len(pcm) - WINDOW_BYTES + 1, WINDOW_BYTES)]


def spans_s(model: SileroVad, pcm: bytes) -> list[tuple[float, float]]:
    """Speech of ``pcm``, in seconds from its start; silence is put around it first."""
    quiet = bytes(int(SILENCE_S * 32_000))
    gate, state = SpeechGate(0.5, 0.35), VadState()
    heard = [gate.update(model.probability(window, state)) for window in windows(quiet + pcm + quiet)]
    edges = [at * 0.032 - SILENCE_S for at, (old, new) in enumerate(pairwise([False, *heard, False])) if old != new]
    return list(zip(edges[::2], edges[1::2], strict=True))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("probabilities", "speech"),
    [
        ([0.0, 0.49, 0.5, 0.49, 0.36, 0.35, 0.34, 0.49], [0, 0, 1, 1, 1, 1, 0, 0]),
        ([1.0, 0.0, 0.4, 0.5], [1, 0, 0, 1]),
    ],
)
def test_the_gate_opens_at_the_threshold_and_closes_below_the_release(probabilities: list[float], speech: list[int]) -> None:
    gate = SpeechGate(0.5, 0.35)
    assert [gate.update(probability) for probability in probabilities] == [bool(value) for value in speech]


@pytest.mark.unit
def test_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelMissingError, match="pip install"):
        SileroVad()


@pytest.fixture(scope="module")
def model() -> SileroVad:
    return SileroVad()


@pytest.mark.models
@needs_model
def test_a_window_of_another_length_is_refused(model: SileroVad) -> None:
    with pytest.raises(ValueError, match="1024 bytes"):
        model.probability(bytes(1_000), VadState())


@pytest.mark.models
@needs_model
def test_silence_and_noise_are_no_speech(model: SileroVad) -> None:
    noise = np.random.default_rng(1).normal(0, 300, 32_000).astype("<i2").tobytes()
    state = VadState()
    assert max(model.probability(window, state) for window in windows(bytes(64_000) + noise)) < 0.5


@pytest.mark.models
@needs_model
@needs_recordings
@pytest.mark.parametrize("name", ["librivox", "cards"])
def test_speech_is_found_where_the_recordings_have_it(model: SileroVad, name: str) -> None:
    """The clips begin with 0.1-0.4 s of silence and end with 0.1-0.4 s; pauses inside are short."""
    for clip in recordings.recorded(name):
        spans = spans_s(model, clip.pcm)
        length_s = clip.duration_ms / 1_000
        assert 0.1 < spans[0][0] < 0.45, clip.name
        assert 0 < length_s - spans[-1][1] < 0.45, clip.name
        assert all(later[0] - earlier[1] < 0.3 for earlier, later in pairwise(spans)), clip.name


@pytest.mark.models
@needs_model
@needs_recordings
def test_sessions_share_the_weights_and_nothing_else(model: SileroVad) -> None:
    first, second = recordings.recorded("librivox")[:2]
    alone = [spans_s(model, clip.pcm) for clip in (first, second)]
    one, other = VadState(), VadState()
    pairs = list(zip(windows(first.pcm), windows(second.pcm), strict=False))
    together = [(model.probability(a, one), model.probability(b, other)) for a, b in pairs]
    one.reset()
    assert [model.probability(a, one) for a, _ in pairs] == [probability for probability, _ in together]
    assert alone == [spans_s(model, clip.pcm) for clip in (first, second)]


def apart(name: str, silent_windows: int) -> bytes:
    """All clips of a set, so many windows of digital silence between them."""
    return b"".join(
        clip.pcm[: len(clip.pcm) // WINDOW_BYTES * WINDOW_BYTES] + bytes(silent_windows * WINDOW_BYTES)
        for clip in recordings.recorded(name)
    )


class Ungated(SileroVad):
    """Asks the model about every window."""

    def probability(self, window: bytes, state: VadState) -> float:
        state._zero_windows = 0
        return super().probability(window, state)


@pytest.fixture(scope="module")
def ungated() -> Ungated:
    return Ungated()


@pytest.mark.models
@needs_model
@needs_recordings
@pytest.mark.parametrize("name", ["librivox", "cards"])
def test_up_to_a_second_of_digital_silence_is_heard_as_without_the_gate(model: SileroVad, ungated: Ungated, name: str) -> None:
    speech = windows(apart(name, SETTLED_WINDOWS - 1))  # the last window of a clip may be silent by itself
    one, other = VadState(), VadState()
    assert [model.probability(each, one) for each in speech] == [ungated.probability(each, other) for each in speech]


@pytest.mark.models
@needs_model
@needs_recordings
def test_after_a_second_of_digital_silence_its_length_makes_no_difference(model: SileroVad) -> None:
    before, after = (windows(clip.pcm) for clip in recordings.recorded("cards")[:2])

    def heard(silent_windows: int) -> list[float]:
        state = VadState()
        for each in before:
            model.probability(each, state)
        assert all(model.probability(bytes(WINDOW_BYTES), state) < 0.1 for _ in range(silent_windows))
        return [model.probability(each, state) for each in after]

    assert heard(SETTLED_WINDOWS) == heard(SETTLED_WINDOWS + 1) == heard(20 * SETTLED_WINDOWS)


@pytest.mark.models
@needs_model
@needs_recordings
@pytest.mark.parametrize("name", ["librivox", "cards"])
def test_the_gate_changes_no_turn(model: SileroVad, ungated: Ungated, name: str) -> None:
    """Utterances four seconds of digital silence apart: as many turns, none begins later, and each ends within a window."""
    pcm = apart(name, 125)

    def turns(vad: SileroVad) -> list[tuple[int, int]]:
        gate, state = SpeechGate(0.5, 0.35), VadState()
        heard = [at for at, each in enumerate(windows(pcm)) if gate.update(vad.probability(each, state))]
        edges = [at for at, (one, next_) in enumerate(pairwise(heard)) if next_ - one > 25]
        return [(heard[start], heard[end]) for start, end in zip([0, *(at + 1 for at in edges)], [*edges, -1], strict=True)]

    with_gate, without = turns(model), turns(ungated)
    assert [end for _, end in with_gate] == pytest.approx([end for _, end in without], abs=1)
    assert all(ours <= theirs for (ours, _), (theirs, _) in zip(with_gate, without, strict=True))


@pytest.mark.models
@needs_model
def test_neither_torch_nor_the_package_is_imported() -> None:
    script = (
        "import sys; from rtvi_actors.config import Config; from rtvi_actors.speaking.stage import SpeakingStages;"
        "SpeakingStages(Config());"
        "print([name for name in ('torch', 'silero_vad', 'ray', 'starlette', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
