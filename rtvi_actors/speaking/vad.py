"""Voice activity: Silero's own ONNX file on bare onnxruntime, and the gate that turns its probabilities into speech or not.

The package ``silero_vad`` is never imported: it would load torch and set the threads of the whole process. Only its file is used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import onnxruntime

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.speaking.events import SAMPLE_RATE_HZ, WINDOW_SAMPLES

WINDOW_BYTES: Final = 2 * WINDOW_SAMPLES
_CONTEXT_SAMPLES: Final = 64


class VadState:
    """What the model remembers of one session: its recurrent state and the last 64 samples of the window before."""

    __slots__ = ("_input", "_recurrent")

    def __init__(self) -> None:
        self._input = np.zeros((1, _CONTEXT_SAMPLES + WINDOW_SAMPLES), dtype=np.float32)
        self._recurrent = np.zeros((2, 1, 128), dtype=np.float32)

    def reset(self) -> None:
        """Forget everything, as at the start of a session: what comes next does not follow on what came before."""
        self._input.fill(0.0)
        self._recurrent = np.zeros((2, 1, 128), dtype=np.float32)


class Vad(Protocol):
    """What tells speech from silence."""

    def probability(self, window: bytes, state: VadState) -> float:
        """How likely ``window`` (512 samples of PCM16 LE, 16 kHz, mono) is speech, 0 to 1. Moves ``state`` on."""


class SileroVad:
    """The weights, once per process. About 0.15 ms of CPU for a window, so it runs inline.

    Raises:
        ModelMissingError: the package that carries the file is not installed.
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        # The model is tiny: an arena would only hold memory that it never needs again.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(SAMPLE_RATE_HZ, dtype=np.int64)

    def probability(self, window: bytes, state: VadState) -> float:
        """As :meth:`Vad.probability`.

        Raises:
            ValueError: ``window`` has not 1,024 bytes.
        """
        if len(window) != WINDOW_BYTES:
            raise ValueError(f"a window has {WINDOW_BYTES} bytes, this one {len(window)}")
        audio = state._input
        audio[0, :_CONTEXT_SAMPLES] = audio[0, -_CONTEXT_SAMPLES:]
        np.multiply(np.frombuffer(window, dtype="<i2"), np.float32(1 / 32_768), out=audio[0, _CONTEXT_SAMPLES:])
        output, state._recurrent = self._session.run(None, {"input": audio, "state": state._recurrent, "sr": self._rate})
        return float(output[0, 0])


class SpeechGate:
    """Hysteresis: speech begins at ``threshold`` and lasts until the probability falls below ``release``."""

    __slots__ = ("_release", "_threshold", "speech")

    def __init__(self, threshold: float, release: float) -> None:
        self._threshold = threshold
        self._release = release
        self.speech = False

    def update(self, probability: float) -> bool:
        """Take the probability of the next window; returns whether it counts as speech."""
        self.speech = probability >= (self._release if self.speech else self._threshold)
        return self.speech


def model_path() -> Path:
    """The ONNX file inside the package ``silero_vad``.

    Raises:
        ModelMissingError: there is none.
    """
    spec = importlib.util.find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "silero_vad.onnx"
        if path.is_file():
            return path
    raise ModelMissingError(
        "the voice activity model silero_vad.onnx was not found: run pip install 'rtvi_actors[models]' (package silero-vad)"
    )
