import importlib.util
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.speaking import vad
from rtvi_actors.speaking.vad import WINDOW_BYTES, SileroVad, SpeechGate, VadState
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
