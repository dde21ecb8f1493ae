"""A language model by transformers: the natural way on a GPU.

All answers are decoded together, one padded pass of the model per step; requests join and leave between steps. Prompts are computed
in passes of their own, in parts, so that answers that run are held up by one part at most. What was computed is kept for each
session: of its next prompt only what differs is computed, and a new session takes the beginning that it shares with another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvi_actors.errors import EngineError, EngineLostError, ModelMissingError
from rtvi_actors.llm.decoding import Answer, Outcome, StepWorker
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.kept import KeptCaches, shares
from rtvi_actors.llm.padded import PaddedBatch
from rtvi_actors.llm.prompt import ChatPrompt
from rtvi_actors.models.prepare import path_of
from rtvi_actors.models.torch_setup import ensure_torchaudio, limit_threads, work_offline

if TYPE_CHECKING:
    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

KEPT_BYTES = 512 * 1024 * 1024
"""Key-value caches that are kept in all. SmolLM2-135M has 23 kB per token in bfloat16: 22,000 tokens."""
KEPT_MS = 600_000
"""A session that says nothing for so long begins anew."""
PREFILL_TOKENS = 256
"""Tokens of prompts, padding included, that are computed between two steps of the answers that run."""
SAMPLED_TOKENS = 40
"""With a temperature: the likeliest tokens that are drawn from."""


@dataclass(slots=True, eq=False)
class _Row:
    """One answer in the model. ``seen``: tokens that its cache holds; ``todo``: those that come next, at least one."""

    answer: Answer
    seen: list[int]
    todo: list[int]
    cache: Any
    computed: bool = False
    """Whether the cache has more than what was taken over."""


class TransformersLlm:
    """An LlmBackend and a StepModel on transformers, bfloat16. For models all of whose layers have full attention."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._prompt: Any = None
        self._model: Any = None
        self._torch: Any = None
        self._device = "cuda" if config.llm.num_gpus > 0 else "cpu"
        self._kept_lock = threading.Lock()
        self._kept: KeptCaches[Any] = KeptCaches(KEPT_BYTES, KEPT_MS)
        self._over: set[Answer] = set()
        """Answers that run of sessions that have ended: nothing is kept of them."""
        self._rows: dict[Answer, _Row] = {}
        self._batch: tuple[list[_Row], PaddedBatch] | None = None
        """Those whose answers run, in the batch as it was after the last step."""
        self._worker: StepWorker | None = None
        self.prefilled_tokens = 0
        """Tokens of prompts that were computed so far."""

    @property
    def memory_bytes(self) -> int:
        """Size of the weights."""
        if self._model is None:
            return 0
        return sum(parameter.numel() * parameter.element_size() for parameter in self._model.parameters())

    @property
    def kept_sessions(self) -> int:
        """Sessions whose cache is kept now."""
        return len(self._kept)

    def load(self) -> None:
        """Load the weights and start the thread.

        Raises:
            ModelMissingError: the files or the packages are not there.
        """
        folder = path_of(self._config.llm.model, self._config)
        self._prompt = ChatPrompt(folder, self._config.llm.context_tokens)
        ensure_torchaudio()
        work_offline()
        try:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging as transformers_logging
        except ImportError as error:
            raise ModelMissingError("llm.backend = 'transformers': run pip install 'rtvi_actors[models]'") from error
        if self._device == "cuda" and not torch.cuda.is_available():
            raise ModelMissingError(f"llm.num_gpus = {self._config.llm.num_gpus:g}, but this process sees no CUDA device")
        transformers_logging.disable_progress_bar()
        limit_threads(self._config.llm.threads)
        self._torch = torch
        self._model = _load(AutoModelForCausalLM, folder, torch.bfloat16).to(self._device).eval()
        self._worker = StepWorker("llm-transformers", self, self._prompt, self._config.llm.max_batch)

    def warm_up(self) -> None:
        """A prompt and a step."""
        ids = self._prompt.encode([ChatMessage("user", "Hello.")]).ids
        batch = PaddedBatch(self._model, [None])
        batch.forward([ids])
        batch.forward([ids[:1]])

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """Answer ``request``; see :meth:`StepWorker.stream`."""
        if self._worker is None:
            raise EngineLostError("the language model is not loaded")
        async for piece in self._worker.stream(session, request):
            yield piece

    def forget(self, session: str) -> None:
        """Drop the session's cache."""
        with self._kept_lock:
            self._kept.forget(session)
            self._over.update(answer for answer in list(self._rows) if answer.job.session == session)

    def close(self) -> None:
        """Fail what waits and runs, end the thread."""
        if self._worker is not None:
            self._worker.close()
        self._model = None

    # ------------------------------------------------------------------------------------------------ for the StepWorker

    def join(self, answer: Answer) -> None:
        """Take over what is kept of the beginning of its prompt."""
        with self._kept_lock:
            common, cache = self._kept.longest(answer.job.session, answer.prompt, _now_ms())
            mine = None if cache is None else cache[:, :, :common]
            self._rows[answer] = _Row(answer, answer.prompt[:common], answer.prompt[common:], mine)

    def step(self) -> Iterator[tuple[Answer, Outcome]]:
        """A part of the prompts, and a token for each answer that runs."""
        running = [row for row in self._rows.values() if row.answer.said]
        joining = [row for row in self._rows.values() if not row.answer.said]
        if joining:
            yield from self._prefill(joining)
        if running:
            yield from self._decode(running)

    def leave(self, answer: Answer) -> None:
        """Keep its cache for the session's next turn."""
        row = self._rows[answer]
        if self._batch is not None and row in self._batch[0]:
            self._break_up()
        self._keep(row)
        with self._kept_lock:
            del self._rows[answer]
            self._over.discard(answer)

    def look_ahead(self) -> bool:
        """Nothing: a cache is cut back to what the next prompt has, and goes on from there."""
        return False

    # -------------------------------------------------------------------------------------------------------- the passes

    def _prefill(self, rows: list[_Row]) -> Iterator[tuple[Answer, Outcome]]:
        parts = shares([len(row.todo) for row in rows], PREFILL_TOKENS)
        rows = [row for row, part in zip(rows, parts, strict=True) if part]
        batch = PaddedBatch(self._model, [row.cache for row in rows])
        tokens = [row.todo[:part] for row, part in zip(rows, parts, strict=False)]
        try:
            scores = batch.forward(tokens)
        except Exception as error:
            yield from self._apart(rows, error, self._prefill)
            return
        self.prefilled_tokens += sum(map(len, tokens))
        complete = []
        for at, (row, part) in enumerate(zip(rows, tokens, strict=True)):
            row.seen, row.todo, row.cache = row.seen + part, row.todo[len(part) :], batch.cache_of(at)
            row.computed = True
            if not row.todo:
                complete.append(at)
                self._keep(row)
        if complete:
            yield from self._choose([rows[at] for at in complete], scores[complete])

    def _decode(self, rows: list[_Row]) -> Iterator[tuple[Answer, Outcome]]:
        if self._batch is None or self._batch[0] != rows:
            self._break_up()
            self._batch = (rows, PaddedBatch(self._model, [row.cache for row in rows]))
            for row in rows:
                row.cache = None  # it is in the batch now
        batch = self._batch[1]
        try:
            scores = batch.forward([row.todo for row in rows])
        except Exception as error:
            self._break_up()
            yield from self._apart(rows, error, self._decode)
            return
        for row in rows:
            row.seen.extend(row.todo)
        yield from self._choose(rows, scores)

    def _apart(self, rows: list[_Row], error: Exception, run: Any) -> Iterator[tuple[Answer, Outcome]]:
        """A pass failed: each row alone, so that only those fail that cannot be helped."""
        log.warning("a pass over %d answers failed", len(rows), exc_info=error)
        if len(rows) == 1:
            yield rows[0].answer, EngineError(f"{type(error).__name__}: {error}")
            return
        for row in rows:
            yield from run([row])

    def _break_up(self) -> None:
        """Give the rows of the batch their caches back."""
        if self._batch is not None:
            rows, batch = self._batch
            for at, row in enumerate(rows):
                row.cache = batch.cache_of(at)
        self._batch = None

    def _keep(self, row: _Row) -> None:
        if not row.computed:
            return
        size_bytes = row.cache.numel() * row.cache.element_size()
        with self._kept_lock:
            if row.answer in self._over:
                return
            self._kept.put(row.answer.job.session, row.seen, row.cache, size_bytes, _now_ms())

    # -------------------------------------------------------------------------------------------------------- the tokens

    def _choose(self, rows: list[_Row], scores: Any) -> Iterator[tuple[Answer, Outcome]]:
        for at, row in enumerate(rows):
            self._make_said_less_likely(row.answer.said, scores[at])
        best = scores.argmax(dim=-1).tolist()
        for at, row in enumerate(rows):
            temperature = row.answer.job.request.temperature
            try:
                token = best[at] if temperature <= 0 else self._draw(scores[at], temperature)
            except RuntimeError as error:
                yield row.answer, EngineError(f"no token could be drawn: {error}")
                continue
            row.todo = [token]
            yield row.answer, [token]

    def _make_said_less_likely(self, said: list[int], scores: Any) -> None:
        """The repetition penalty, in place, on what this answer has already. The prompt's own words stay as likely as they are."""
        penalty = self._config.llm.repetition_penalty
        if said and penalty != 1:
            ids = self._torch.tensor(sorted(set(said)), device=scores.device)
            before = scores[ids]
            scores[ids] = self._torch.where(before > 0, before / penalty, before * penalty)

    def _draw(self, scores: Any, temperature: float) -> int:
        best = self._torch.topk(scores, SAMPLED_TOKENS)
        probabilities = self._torch.softmax(best.values / temperature, dim=-1)
        return int(best.indices[self._torch.multinomial(probabilities, 1)])


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _load(auto: Any, folder: Path, dtype: Any) -> Any:
    try:
        return auto.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelMissingError(f"llm.model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
