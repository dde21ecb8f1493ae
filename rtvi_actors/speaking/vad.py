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
from rtvi_actors.speaking.events import WINDOW_SAMPLES

WINDOW_BYTES: Final = 2 * WINDOW_SAMPLES
SETTLED_WINDOWS: Final = 31
"""Windows of digital silence in a row (1 s) that the model hears; it hears no more of them."""
_CONTEXT_SAMPLES: Final = 64
_FILE: Final = "silero_vad_openvino_16k.onnx"
"""Of the package's exports, all of the same weights, the one for one session and 16 kHz alone: the cheapest on a processor whose
caches are cold, as they are in a process that mostly waits."""
_ZEROS: Final = bytes(WINDOW_BYTES)


class VadState:
    """What the model remembers of one session: its recurrent state and the last 64 samples of the window before.

    And how long it has been hearing digital silence, with what it says of that.
    """

    __slots__ = ("_input", "_probability", "_recurrent", "_zero_windows")

    def __init__(self) -> None:
        self._input = np.zeros((1, _CONTEXT_SAMPLES + WINDOW_SAMPLES), dtype=np.float32)
        self._recurrent = np.zeros((2, 1, 128), dtype=np.float32)
        self._zero_windows = 0
        self._probability = 0.0

    def reset(self) -> None:
        """Forget everything, as at the start of a session: what comes next does not follow on what came before."""
        self._input.fill(0.0)
        self._recurrent = np.zeros((2, 1, 128), dtype=np.float32)
        self._zero_windows = 0


class Vad(Protocol):
    """What tells speech from silence."""

    def probability(self, window: bytes, state: VadState) -> float:
        """How likely ``window`` (512 samples of PCM16 LE, 16 kHz, mono) is speech, 0 to 1. Moves ``state`` on."""


class SileroVad:
    """The weights, once per process. 0.1 ms of CPU for a window (0.4 where caches are cold), so it runs inline.

    A microphone that is muted sends zeros. After a second of them the state stands still, and the model is not asked: speech
    that comes after an hour is heard exactly as it is after that second. (The model itself drifts on, and hears some words later.)

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

    def probability(self, window: bytes, state: VadState) -> float:
        """As :meth:`Vad.probability`.

        Raises:
            ValueError: ``window`` has not 1,024 bytes.
        """
        if len(window) != WINDOW_BYTES:
            raise ValueError(f"a window has {WINDOW_BYTES} bytes, this one {len(window)}")
        # Louder than zero is not certain: speech 54 dB below full scale is recognised as speech.
        state._zero_windows = state._zero_windows + 1 if window == _ZEROS else 0
        if state._zero_windows > SETTLED_WINDOWS:
            return state._probability
        audio = state._input
        audio[0, :_CONTEXT_SAMPLES] = audio[0, -_CONTEXT_SAMPLES:]
        np.multiply(np.frombuffer(window, dtype="<i2"), np.float32(1 / 32_768), out=audio[0, _CONTEXT_SAMPLES:])
        output, state._recurrent = self._session.run(None, {"input": audio, "state": state._recurrent})
        state._probability = float(output[0, 0])
        return state._probability


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
        path = Path(folder) / "data" / _FILE
        if path.is_file():
            return path
    raise ModelMissingError(
        f"the voice activity model {_FILE} was not found: run pip install 'rtvi_actors[models]' (package silero-vad)"
    )
