"""Coqui TTS: a VITS voice loaded by Coqui's own classes, spoken piece by piece."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, EngineError, ModelMissingError
from rtvi_actors.models.piper_to_coqui import CHECKPOINT_FILE, CONFIG_FILE
from rtvi_actors.models.prepare import path_of
from rtvi_actors.models.torch_setup import ensure_torchaudio, limit_threads, work_offline
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest
from rtvi_actors.tts.piece_worker import PieceWorker, Step, Steps
from rtvi_actors.tts.reading import Reader, word_marks
from rtvi_actors.tts.trim import SilenceTrimmer

SENTENCE_PAUSE_MS = 120
CLAUSE_PAUSE_MS = 80
"""Silence kept after a clause: more after the end of a sentence."""

_RESAMPLING = "LQ"
"""soxr's quality. Flat to 8 kHz, and it holds back 1 ms; the better ones hold back 30-40 ms of the first piece."""

_WARM_UP = (
    "Hello.",
    "I can help you with that.",
    "The quick brown fox jumps over the lazy dog, and then it goes home to sleep for a while.",
    "On the 2nd of May 1999, 3 of 1,000 people paid $4.50, and 1/2 of them did so at 10:30.",
)
"""Also numbers: Coqui's cleaner imports what spells them out with the first one, which took 2.5 s in the middle of an answer."""
_PREPARE = "rtvi-actors models prepare --verify"

_LONGEST_MS = 60_000
"""A clause of 400 characters takes 30 s; what takes much longer is a text that the model stumbles over."""


class CoquiTts:
    """The voice ``config.tts.model`` (see TtsBackend): a folder with ``model.pth`` and ``config.json`` of a Coqui VITS model.

    On the CPU with ``config.tts.threads`` threads, on CUDA if ``config.tts.num_gpus`` is above 0.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._voice: Any = None
        self._reader: Reader | None = None
        self._rate_hz = 0
        self._worker: PieceWorker | None = None

    @property
    def memory_bytes(self) -> int:
        """What the loaded weights take on the device; 0 before :meth:`load`."""
        return self._voice.memory_bytes if self._voice is not None else 0

    def load(self) -> None:
        """Load the voice and start its thread. Takes 2-4 s, most of it imports.

        Raises:
            ModelMissingError: the voice is not prepared, or a package is missing.
            ConfigError: a GPU is configured and there is none.
        """
        folder = path_of(self._config.tts.model, self._config)
        ensure_torchaudio()
        work_offline()
        try:
            model = _load_vits(folder, on_gpu=self._config.tts.num_gpus > 0)
        except ImportError as error:
            raise ModelMissingError(f"Coqui TTS cannot be imported ({error}): run `pip install 'rtvi_actors[models]'`") from error
        except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            # What a folder that is no Coqui VITS checkpoint, or a damaged one, ends in.
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ModelMissingError(f"{folder} is not a voice that can be loaded ({what}): run `{_PREPARE}`") from error
        from rtvi_actors.tts.vocoder import StreamingVits

        self._reader = Reader(model.tokenizer)
        self._rate_hz = model.config.audio.sample_rate
        self._voice = StreamingVits(model)
        self._worker = PieceWorker("tts", lambda: limit_threads(self._config.tts.threads), self._speak)

    def warm_up(self) -> None:
        """Speak texts of several lengths: the first run of a shape costs up to three times as much. Before any request."""
        limit_threads(self._config.tts.threads)
        for text in _WARM_UP:
            for _ in self._speak(TtsRequest(text)):
                pass

    def stream(self, session: str, request: TtsRequest) -> AsyncIterator[TtsPiece]:
        """Speak; see TtsBackend."""
        if self._worker is None:
            raise EngineError("the voice is not loaded")
        return self._worker.stream(session, request)

    def close(self) -> None:
        """Stop the thread."""
        if self._worker is not None:
            self._worker.close()

    def _speak(self, request: TtsRequest) -> Steps:
        """PCM16 at 24 kHz, one vocoder piece per step. Runs in the worker's thread."""
        import soxr

        assert self._reader is not None
        reading = self._reader.read(request.text)
        if not reading.token_ids:
            return
        trimmer = SilenceTrimmer(self._rate_hz, SENTENCE_PAUSE_MS if reading.ends_sentence else CLAUSE_PAUSE_MS)
        resampler = soxr.ResampleStream(self._rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality=_RESAMPLING)
        prior = self._voice.prior(reading.token_ids, request.speed)
        most_frames = _LONGEST_MS * self._rate_hz // 1_000 // self._voice.hop
        piece_frames = max(1, round(self._config.tts.piece_ms * self._rate_hz / 1_000 / self._voice.hop))
        samples_per_sample = SAMPLE_RATE_HZ / self._rate_hz
        marks: list[tuple[int, int]] | None = None
        for audio in self._voice.pieces(prior.frames[:, :, :most_frames], piece_frames):
            pcm = _pcm16(resampler.resample_chunk(trimmer.push(audio)))
            if pcm and marks is None:
                frame_samples, cut_samples = self._voice.hop * samples_per_sample, trimmer.cut_samples * samples_per_sample
                marks = word_marks(reading.words, prior.token_frames, frame_samples, cut_samples)
                yield Step(pcm, marks)
            else:
                yield Step(pcm)
        yield Step(_pcm16(resampler.resample_chunk(trimmer.finish(), last=True)))


def _load_vits(folder: Path, *, on_gpu: bool) -> Any:
    """A Coqui ``Vits`` in eval mode on its device."""
    import torch
    from TTS.tts.configs.vits_config import VitsConfig
    from TTS.tts.models.vits import Vits

    from rtvi_actors.tts.phonemes import register_with_coqui

    if on_gpu and not torch.cuda.is_available():
        raise ConfigError("tts.num_gpus is above 0, but torch sees no GPU here: set it to 0, or install a CUDA build of torch")
    register_with_coqui()
    config = VitsConfig()
    config.load_json(str(folder / CONFIG_FILE))
    model = Vits(config)
    model.load_checkpoint(config, str(folder / CHECKPOINT_FILE), eval=True)
    return model.to("cuda" if on_gpu else "cpu")


def _pcm16(samples: Any) -> bytes:
    """Float samples from -1 to 1, clipped, as PCM16 little endian."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes()
