"""Whisper by faster-whisper: several sessions' utterances in one encode and one generate.

Whisper pads what it hears to 30 s, and encoding that is most of its cost. Utterances up to 9.5 s are decoded in a window of 10 s:
three times faster, no worse. Never shorter: below that it repeats itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvi_actors.engines.batch import BatchQueue
from rtvi_actors.engines.batch_worker import BatchWorker, Job
from rtvi_actors.errors import ConfigError, EngineError, ModelMissingError
from rtvi_actors.models.prepare import path_of
from rtvi_actors.stt.engine import SAMPLE_RATE_HZ, SttPiece, SttRequest
from rtvi_actors.stt.plausible import has_loop, is_made_up, without_loops

if TYPE_CHECKING:
    import numpy as np

    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

FRAMES_PER_S = 100
SHORT_FRAMES = 10 * FRAMES_PER_S
LONG_FRAMES = 30 * FRAMES_PER_S
"""Windows, in frames of 10 ms."""

SHORT_MAX_BYTES = int(9.5 * SAMPLE_RATE_HZ) * 2
MAX_BYTES = 29 * SAMPLE_RATE_HZ * 2

TOKENS_PER_S = 10
MIN_TOKENS = 16
MAX_TOKENS = 224
"""Longest text: fast speech has 5 tokens a second; what runs away is stopped here."""

END_MARKS = (".", "!", "?", '."', '!"', '?"', ".'", "。", "！", "？", "।", "؟")  # noqa: RUF001  other scripts' marks are meant
"""What ends a sentence, as far as a model has one token for it."""

SttJob = Job[SttRequest, SttPiece]


@dataclass(frozen=True, slots=True)
class _Heard:
    text: str
    no_speech: float
    log_probability: float
    language: str
    sentence_end: float = -1.0


class FasterWhisper:
    """An SttBackend on CTranslate2: int8 on the CPU, float16 on a GPU, greedy unless ``stt.beam`` says otherwise.

    A text that is made up of noise is "". One that ran into a loop is decoded again in the window of 30 s; if that loops too, the
    loop is cut down to its first round. Interims are given up half-way, behind the encoder, when a final waits.

    ``compute_ns`` of a request is its equal share of the time that its batch took, features included.
    """

    def __init__(self, config: Config) -> None:
        self._app = config
        self._config = config.stt
        self._folder = Path()
        self._whisper: Any = None
        self._worker: BatchWorker[SttRequest, SttPiece] | None = None
        self._tokenizers: dict[str, Any] = {}
        self._suppressed: list[int] = []
        self._end_marks: list[int] = []
        self._tells_ends = config.stt.beam == 1
        """Scores of all tokens are only to be had of a greedy search."""

    @property
    def memory_bytes(self) -> int:
        """Size of the weights as they are stored; int8 takes about half of it."""
        model = self._folder / "model.bin"
        return model.stat().st_size if model.is_file() else 0

    def load(self) -> None:
        """Load the weights and start the thread.

        Raises:
            ModelMissingError: the files or the packages are not there.
            ConfigError: the model does not know ``stt.language``.
        """
        self._folder = path_of(self._config.model, self._app)
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ModelMissingError("stt.backend = 'faster-whisper': run pip install 'rtvi_actors[models]'") from error
        on_gpu = self._config.num_gpus > 0
        try:
            self._whisper = WhisperModel(
                str(self._folder),
                device="cuda" if on_gpu else "cpu",
                compute_type="float16" if on_gpu else "int8",
                cpu_threads=self._config.threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError) as error:
            raise ModelMissingError(f"stt.model in {self._folder} cannot be loaded: {error}") from error
        language = self._language(SttRequest(pcm=b""))
        if language and language not in self._whisper.supported_languages:
            known = ", ".join(sorted(self._whisper.supported_languages))
            raise ConfigError(f"stt.language = {self._config.language!r}: stt.model = {self._config.model!r} knows {known}")
        self._prepare_tokens()
        self._worker = BatchWorker("stt-faster-whisper", self._decode, BatchQueue(self._config.max_batch))

    def warm_up(self) -> None:
        """Decode a second of silence in both windows."""
        for frames in (SHORT_FRAMES, LONG_FRAMES):
            self._hear([SttRequest(pcm=bytes(SAMPLE_RATE_HZ * 2))], frames)

    async def stream(self, session: str, request: SttRequest) -> AsyncGenerator[SttPiece, None]:
        """Decode ``request``: one piece.

        Raises:
            EngineError: not PCM16, longer than 29 s, a language that the model does not know, or the model failed.
        """
        if self._worker is None:
            raise EngineError("the model is not loaded")
        if len(request.pcm) % 2 or len(request.pcm) > MAX_BYTES:
            raise EngineError(f"{len(request.pcm)} bytes are not PCM16 of at most 29 s")
        self._tokenizer(self._language(request))  # refuses a language here, not in a batch with others
        shape = self._shape(request)
        async with aclosing(self._worker.stream(session, request, urgent=request.final, shape=shape)) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        """Stop the thread and let go of the weights."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._whisper = None

    # ------------------------------------------------------------------------------------------------ in the thread

    def _decode(self, jobs: list[SttJob]) -> None:
        if jobs[0].request.final:  # a batch is of one kind
            self._decode_finals(jobs)
        else:
            self._decode_interims(jobs)

    def _decode_finals(self, jobs: list[SttJob]) -> None:
        frames = self._frames(jobs[0].request)
        begun_ns = time.monotonic_ns()
        heard = self._hear([job.request for job in jobs], frames)
        share_ns = (time.monotonic_ns() - begun_ns) // len(jobs)
        looping: list[tuple[SttJob, _Heard]] = []
        for job, result in zip(jobs, heard, strict=True):
            if has_loop(result.text) and not is_made_up(result.text, result.no_speech, result.log_probability):
                looping.append((job, result))
            else:
                _answer(job, result, share_ns)
        for job, result in looping:  # last, so that the others need not wait
            if frames == SHORT_FRAMES and not job.withdrawn:
                begun_ns = time.monotonic_ns()
                [again] = self._hear([job.request], LONG_FRAMES)
                _answer(job, again, share_ns + time.monotonic_ns() - begun_ns)
            else:
                _answer(job, result, share_ns)

    def _decode_interims(self, jobs: list[SttJob]) -> None:
        """As little work as possible: given up behind the encoder if nobody wants them any more, or a final waits."""
        begun_ns = time.monotonic_ns()
        requests = [job.request for job in jobs]
        encoded = self._encode(requests, self._frames(requests[0]))
        if all(job.withdrawn for job in jobs) or (self._worker is not None and self._worker.urgent_waits):
            heard = [_Heard("", 1.0, 0.0, _code(request.language)) for request in requests]
        else:
            heard = self._generate(requests, encoded)
        share_ns = (time.monotonic_ns() - begun_ns) // len(jobs)
        for job, result in zip(jobs, heard, strict=True):
            _answer(job, result, share_ns)

    def _hear(self, requests: list[SttRequest], frames: int) -> list[_Heard]:
        """Decode in one run; all in a window of ``frames``."""
        return self._generate(requests, self._encode(requests, frames))

    def _encode(self, requests: list[SttRequest], frames: int) -> Any:
        import numpy as np

        return self._whisper.encode(np.stack([self._features(request.pcm, frames) for request in requests]))

    def _generate(self, requests: list[SttRequest], encoded: Any) -> list[_Heard]:
        languages = self._languages(requests, encoded)
        prompts = [self._prompt(language) for language in languages]
        longest_s = max(len(request.pcm) for request in requests) / 2 / SAMPLE_RATE_HZ
        tokens = min(MIN_TOKENS + int(longest_s * TOKENS_PER_S), MAX_TOKENS)
        results = self._whisper.model.generate(
            encoded,
            prompts,
            beam_size=self._config.beam,
            max_length=len(prompts[0]) + tokens,
            suppress_blank=True,
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=self._tells_ends and requests[0].final,
        )
        return [self._heard(result, language) for result, language in zip(results, languages, strict=True)]

    def _heard(self, result: Any, language: str) -> _Heard:
        tokens = result.sequences_ids[0]
        text = self._tokenizer(language).decode(tokens).strip()
        # The score is the average over the tokens; the end counts as one more.
        log_probability = result.scores[0] * len(tokens) / (len(tokens) + 1)
        return _Heard(text, result.no_speech_prob, log_probability, language, self._sentence_end(result, tokens))

    def _sentence_end(self, result: Any, tokens: list[int]) -> float:
        """What the model gave to all marks that end a sentence, where the text has one or ends.

        Whisper writes a full stop behind almost anything, but it listens while it does: in mid-sentence it wavers between
        the marks, a further word and the end.
        """
        import numpy as np

        if not result.logits:
            return -1.0
        steps = result.logits[0]
        place = len(tokens) - 1 if tokens and tokens[-1] in self._end_marks else len(tokens)
        if place >= len(steps):  # cut off at its greatest length
            return 0.0
        logits = np.array(steps[place], dtype=np.float64).ravel()
        weights = np.exp(logits - logits.max())
        return float(weights[self._end_marks].sum() / weights.sum())

    def _features(self, pcm: bytes, frames: int) -> np.ndarray[Any, Any]:
        """Log-mel features [mels, frames] float32, padded with zeros."""
        import numpy as np

        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32_768
        features = self._whisper.feature_extractor(samples)[:, :frames]
        return np.pad(features, ((0, 0), (0, frames - features.shape[1]))).astype(np.float32)

    def _languages(self, requests: list[SttRequest], encoded: Any) -> list[str]:
        """Whisper's code of each request's language; detected where neither the request nor the configuration says it."""
        if not self._whisper.model.is_multilingual:
            return ["en"] * len(requests)
        given = [self._language(request) for request in requests]
        if all(given):
            return given
        detected = self._whisper.model.detect_language(encoded)
        return [code or best[0][0].strip("<|>") for code, best in zip(given, detected, strict=True)]

    # ------------------------------------------------------------------------------------------------------- tokens

    def _prepare_tokens(self) -> None:
        from faster_whisper.transcribe import get_suppressed_tokens

        self._tokenizers.clear()
        self._suppressed = list(get_suppressed_tokens(self._tokenizer("en"), [-1]))
        encoded = [self._whisper.hf_tokenizer.encode(mark, add_special_tokens=False).ids for mark in END_MARKS]
        self._end_marks = [ids[0] for ids in encoded if len(ids) == 1]

    def _language(self, request: SttRequest) -> str:
        """Whisper's code of the language to hear; "" if it is to be detected."""
        wanted = request.language or self._config.language
        return "" if wanted == "auto" else _code(wanted)

    def _tokenizer(self, language: str) -> Any:
        """The tokenizer for ``language`` (Whisper's code; "" as English).

        Raises:
            EngineError: the model does not know the language.
        """
        code = language or "en"
        if code not in self._tokenizers:
            if code not in self._whisper.supported_languages:
                raise EngineError(f"{self._config.model} does not know the language {language!r}")
            from faster_whisper.tokenizer import Tokenizer

            multilingual = self._whisper.model.is_multilingual
            self._tokenizers[code] = Tokenizer(self._whisper.hf_tokenizer, multilingual, task="transcribe", language=code)
        return self._tokenizers[code]

    def _prompt(self, language: str) -> list[int]:
        prompt: list[int] = self._whisper.get_prompt(self._tokenizer(language), [], without_timestamps=True)
        return prompt

    # ------------------------------------------------------------------------------------------------------- windows

    def _frames(self, request: SttRequest) -> int:
        short = self._config.short_window and len(request.pcm) <= SHORT_MAX_BYTES
        return SHORT_FRAMES if short else LONG_FRAMES

    def _shape(self, request: SttRequest) -> Hashable:
        """Requests of one shape share a batch: those of one window.

        On a CPU a batch of 30 s windows gains nothing and makes all its requests wait for the slowest: there each is decoded alone.
        So are interims: a final that comes meanwhile waits for one, not for several.
        """
        frames = self._frames(request)
        return frames if self._config.num_gpus > 0 or (request.final and frames == SHORT_FRAMES) else object()


def _answer(job: SttJob, heard: _Heard, compute_ns: int) -> None:
    made_up = is_made_up(heard.text, heard.no_speech, heard.log_probability)
    if made_up and heard.text:
        log.debug("dropped %r: silence %.2f, log probability %.2f", heard.text, heard.no_speech, heard.log_probability)
    text = "" if made_up else without_loops(heard.text)
    job.emit(SttPiece(text, heard.language, compute_ns, job.queue_ns, heard.sentence_end))
    job.end()


def _code(language: str) -> str:
    """Whisper's code of a BCP 47 tag: ``pt-BR`` is ``pt``."""
    return language.partition("-")[0].lower()
