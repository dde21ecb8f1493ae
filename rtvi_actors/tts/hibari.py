"""Hibari: a small voice on onnxruntime, that speaks a hundred times faster than real time on one core.

The model gets phonemes and gives a spectrum and, behind an output that is opened here, how long each phoneme lasts: the times of
words are its own. It speaks a sentence at a time, with half a second of silence around it, which is shortened.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtvi_actors.errors import ConfigError, EngineError, ModelMissingError
from rtvi_actors.models.prepare import path_of
from rtvi_actors.tts.engine import SAMPLE_RATE_HZ, TtsPiece, TtsRequest
from rtvi_actors.tts.piece_worker import PieceWorker, Step, Steps
from rtvi_actors.tts.spoken_text import spoken_text
from rtvi_actors.tts.trim import Samples, SilenceTrimmer
from rtvi_actors.tts.word_sounds import word_sounds

if TYPE_CHECKING:
    from rtvi_actors.config import Config

MODEL_FILE = "hibari.onnx"

SENTENCE_PAUSE_MS = 120
CLAUSE_PAUSE_MS = 80
"""Silence kept after a sentence, and after what is none."""

MAX_PHONEMES = 300
"""Phonemes that are spoken in one run, about 20 s. A sentence has 60; one run is one step for the sessions that wait."""
LONGEST_MS = 40_000
"""Of a clause. One of 400 characters takes 30 s, unless they are all digits."""
REMEMBERED_WORDS = 4_096

_DURATIONS = "/Cast_32_output_0"
"""Inside the model: how many steps each phoneme lasts ..."""
_STEP_SAMPLES = 600
"""... of 25 ms."""
_WARM_UP = ("Hello.", "On the 2nd of May 1999, 3 of 1,000 people paid $4.50 to hear Xzibit.")

Marks = list[tuple[int, int]]


class HibariTts:
    """The voice ``config.tts.model`` (see TtsBackend): ``hibari-heart``, or a folder with a ``hibari.onnx``. On the CPU only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._voice: _Voice | None = None
        self._worker: PieceWorker | None = None
        self._memory_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """Size of the weights; 0 before :meth:`load`."""
        return self._memory_bytes

    def load(self) -> None:
        """Load the voice and start its thread. Takes a second.

        Raises:
            ModelMissingError: the package is missing, or the folder has no such voice.
            ConfigError: a GPU is configured.
        """
        if self._config.tts.num_gpus > 0:
            raise ConfigError("tts.num_gpus is above 0, but tts.backend = 'hibari' runs on the CPU: set it to 0")
        file = path_of(self._config.tts.model, self._config) / MODEL_FILE
        try:
            self._voice = _Voice(file, self._config.tts.threads)
        except ImportError as error:
            raise ModelMissingError(f"the voice of hibari needs {error.name}: run `pip install 'rtvi_actors[models]'`") from error
        except OSError as error:
            raise ModelMissingError(f"{file} cannot be read: {error.strerror}") from error
        self._memory_bytes = file.stat().st_size
        self._worker = PieceWorker("tts-hibari", lambda: None, self._speak)

    def warm_up(self) -> None:
        """Speak once: the tables of the language are read with the first sentence, half a second. Before any request."""
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
        """PCM16 at 24 kHz. Runs in the worker's thread.

        First a step without sound for each run of the model, since the times of all words go out with the first sound; then pieces.
        """
        assert self._voice is not None
        reading = self._voice.read(request.text)
        samples, most_samples = np.zeros(0, dtype=np.float32), LONGEST_MS * SAMPLE_RATE_HZ // 1_000
        for number, run in enumerate(reading.runs):
            if number > 0:
                yield Step(b"")
            samples = np.concatenate([samples, self._voice.say(reading, run, request.speed, len(samples))])
            if len(samples) >= most_samples:
                break
        pcm = _pcm16(samples[:most_samples])
        piece_bytes = self._config.tts.piece_ms * SAMPLE_RATE_HZ // 1_000 * 2
        marks: Marks = [(min(sample, most_samples), char) for sample, char in reading.marks()] if pcm else []
        for at in range(0, len(pcm), piece_bytes):
            yield Step(pcm[at : at + piece_bytes], marks if at == 0 else ())


class _Reading:
    """A clause as phonemes.

    Args:
        text: as it was written.
        read: as it is read.
        phonemes: of it, with spaces and punctuation.
        runs: [begin, end) of what is spoken at a time, in ``phonemes``.
    """

    def __init__(self, text: str, read: str, phonemes: str, runs: list[tuple[int, int]], pronounce: _Pronounce) -> None:
        self.phonemes = phonemes
        self.runs = runs
        self._text = text
        self._read = read
        self._pronounce = pronounce
        self._at_samples = [-1] * (len(phonemes) + 1)

    def took(self, run: tuple[int, int], at_samples: list[int]) -> None:
        """The phonemes of ``run`` begin at these samples; one more for its end."""
        self._at_samples[run[0] : run[1] + 1] = at_samples

    def marks(self) -> Marks:
        """``(sample, char)`` for the beginning and the end of each word that was spoken (see ``TtsPiece.marks``)."""
        marks: Marks = []
        for word in word_sounds(self._text, self._read, self.phonemes, self._pronounce.read_alone, self._pronounce.pronounce_alone):
            first, last = self._at_samples[word.first], self._at_samples[word.last]
            if last >= 0:
                marks += [(first, word.begin), (last, word.end)]
        return marks


class _Pronounce:
    """What words are read as, and how they sound, each for itself."""

    def __init__(self, phonemes_of: Callable[[str], str], normalize: Callable[[str], str]) -> None:
        self.pronounce_alone: Callable[[str], str] = lru_cache(REMEMBERED_WORDS)(phonemes_of)
        self.read_alone: Callable[[str], str] = lru_cache(REMEMBERED_WORDS)(lambda word: normalize(spoken_text(word)))


class _Voice:
    """The package's parts. To be used by one thread at a time.

    Raises:
        ImportError, OSError: a package or the file is missing.
        ModelMissingError: the file is another model.
    """

    def __init__(self, file: Path, threads: int) -> None:
        from hibari import Hibari, dsp
        from hibari.g2p.normalize import normalize

        # With a model given it looks for no other voice; without, it might download one.
        self._hibari: Any = Hibari(model=_with_durations(file), threads=threads)
        self._dsp: Any = dsp
        self._normalize: Callable[[str], str] = normalize
        self._outputs = [output.name for output in self._hibari.sess.get_outputs()]
        self._pronounce = _Pronounce(self._hibari.g2p, normalize)
        self._noise = np.random.default_rng()

    def read(self, text: str) -> _Reading:
        """The phonemes of ``text``, sentence by sentence; no runs if there is nothing to say."""
        read, phonemes = "", ""
        runs: list[tuple[int, int]] = []
        for sentence in self._hibari.split_sentences(spoken_text(text)):
            said: str = self._hibari.g2p(sentence)
            if any(character.isalpha() for character in said):
                read = f"{read} {self._normalize(sentence)}".strip()
                phonemes = f"{phonemes} {said}".strip()
                begin = len(phonemes) - len(said)
                runs += [(begin + first, begin + last) for first, last in _runs(said)]
        return _Reading(text, read, phonemes, runs, self._pronounce)

    def say(self, reading: _Reading, run: tuple[int, int], speed: float, before_samples: int) -> Samples:
        """One run's audio, its silence shortened; ``reading`` takes note of its times behind ``before_samples``."""
        hibari, phonemes = self._hibari, reading.phonemes[slice(*run)]
        ids = np.asarray([hibari.ids(phonemes)], dtype=np.int64)
        *spectrum, durations = hibari.sess.run(self._outputs, {"ids": ids, "speed": np.asarray([speed], dtype=np.float32)})
        audio = self._dsp.synth(*(part[0] for part in spectrum), self._noise)
        trimmer = SilenceTrimmer(SAMPLE_RATE_HZ, SENTENCE_PAUSE_MS if phonemes.endswith((".", "!", "?")) else CLAUSE_PAUSE_MS)
        kept = np.concatenate([trimmer.push(audio), trimmer.finish()])
        # A token for each phoneme that the model knows, between one for the beginning and one for the end.
        tokens = list(accumulate((character in hibari.vocab for character in phonemes), initial=1))
        begins = [0, *accumulate(durations.tolist())]
        times = [begins[token] * _STEP_SAMPLES - trimmer.cut_samples for token in tokens]
        reading.took(run, [before_samples + min(max(time, 0), len(kept)) for time in times])
        return kept


def _runs(phonemes: str) -> Iterator[tuple[int, int]]:
    """[begin, end) of the parts of a sentence that are spoken at a time: mostly one. Cut at punctuation, else between words."""
    begin = 0
    while len(phonemes) - begin > MAX_PHONEMES:
        part = phonemes[begin : begin + MAX_PHONEMES]
        cuts = [match.end() for match in re.finditer(r"[,;:\u2014] ", part)] or [match.end() for match in re.finditer(" ", part)]
        end = begin + (cuts[-1] if cuts else MAX_PHONEMES)
        yield begin, end
        begin = end
    yield begin, len(phonemes)


def _with_durations(file: Path) -> bytes:
    """The model with one more output, its last: the steps of each token.

    Raises:
        ModelMissingError: it has none.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except DecodeError:
        model = onnx.ModelProto()
    if not any(_DURATIONS in node.output for node in model.graph.node):
        raise ModelMissingError(f"{file} is not the model of hibari-tts 0.2.1: its durations are not found")
    output = onnx.ValueInfoProto()
    output.name = _DURATIONS
    model.graph.output.append(output)
    serialized: bytes = model.SerializeToString()
    return serialized


def _pcm16(samples: Samples) -> bytes:
    """Float samples from -1 to 1, clipped, as PCM16 little endian."""
    return np.rint(np.clip(samples, -1.0, 1.0) * 32_767).astype("<i2").tobytes()
