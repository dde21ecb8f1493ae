"""A language model by transformers: the natural way on a GPU.

One thread works on all requests, one decoding step of each in turn, so that a new request starts at once and none waits for
another's whole answer. Each session's key-value cache is kept between its turns: of a new prompt only what differs from the last
one is computed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvi_actors.engines.batch_worker import Job
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError, ModelMissingError
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.prompt import ChatPrompt, Detokenizer
from rtvi_actors.models.prepare import path_of
from rtvi_actors.models.torch_setup import ensure_torchaudio, limit_threads, work_offline
from rtvi_actors.observe.figures import batch_sizes

if TYPE_CHECKING:
    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

KEPT_SESSIONS = 16
"""Sessions whose key-value cache is kept; the one that was used longest ago beyond it is dropped."""
PREFILL_TOKENS = 256
"""Tokens of a prompt that are computed in one step: others' answers wait no longer than that."""
MAX_WAITING = 256
"""Requests that may wait; the next one is refused."""
SAMPLED_TOKENS = 40
"""With a temperature: the likeliest tokens that are drawn from."""
CLOSE_TIMEOUT_S = 5.0

LlmJob = Job[LlmRequest, LlmPiece]


@dataclass(slots=True)
class _Kept:
    """A key-value cache and the tokens that it holds."""

    cache: Any
    tokens: list[int]


@dataclass(slots=True)
class _Work:
    """One request. ``todo``: tokens that the model has not seen yet, the newest of the answer among them."""

    job: LlmJob
    prompt: list[int]
    text: Detokenizer
    todo: list[int]
    kept: _Kept
    count: int = 0
    compute_ns: int = 0


class TransformersLlm:
    """An LlmBackend on transformers, bfloat16.

    ``compute_ns`` of a request is the time of its own steps.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._prompt: Any = None
        self._model: Any = None
        self._torch: Any = None
        self._device = "cuda" if config.llm.num_gpus > 0 else "cpu"
        self._changed = threading.Condition()
        self._waiting: deque[tuple[LlmJob, list[int], Detokenizer]] = deque()
        self._running: deque[_Work] = deque()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._closed = False
        self._thread: threading.Thread | None = None

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
        self._thread = threading.Thread(target=self._main, name="llm-transformers", daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """Answer once."""
        ids = self._prompt.encode([ChatMessage("user", "Hello.")]).ids
        kept = self._new_cache()
        self._forward(ids, kept)
        self._forward(ids[:1], kept)

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """Answer ``request``, a piece per token. Closing the iterator stops it within one step.

        Raises:
            EngineError: the chat template refuses the messages, or the model failed.
            EngineTimeoutError: too many requests wait.
            EngineLostError: the backend was closed.
        """
        if self._model is None:
            raise EngineLostError("the language model is not loaded")
        job: LlmJob = Job(session, request)
        # On the event loop, since the queue keeps the order of arrival: 1 ms for a long prompt.
        entry = (job, list(self._prompt.encode(request.messages).ids), self._prompt.detokenizer())
        with self._changed:
            if self._closed:
                raise EngineLostError("the language model is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise EngineTimeoutError(f"{MAX_WAITING} requests already wait for the language model")
            self._waiting.append(entry)
            self._changed.notify()
        try:
            while (piece := await job.next_piece()) is not None:
                yield piece
        finally:
            job.withdraw()
            with self._changed, suppress(ValueError):
                self._waiting.remove(entry)

    def forget(self, session: str) -> None:
        """Drop the session's cache."""
        with self._changed:
            self._kept.pop(session, None)

    def close(self) -> None:
        """Fail what waits and runs, end the thread."""
        with self._changed:
            self._closed = True
            orphans = [job for job, _, _ in self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for job in orphans:
            job.fail(EngineLostError("the language model was closed"))
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                log.warning("thread %s still works %s s after it was closed", self._thread.name, CLOSE_TIMEOUT_S)
        self._model = None

    # --------------------------------------------------------------------------------------------------- on its thread

    def _main(self) -> None:
        while self._admit():
            if not self._running:
                continue
            work = self._running.popleft()
            try:
                going_on = self._step(work)
            except Exception as error:
                # A model's own error must not end the thread: other requests still come.
                log.exception("the language model failed")
                work.job.fail(EngineError(f"{type(error).__name__}: {error}"))
                continue
            if going_on:
                self._running.append(work)
            else:
                self._finish(work)
        for work in self._running:
            work.job.fail(EngineLostError("the language model was closed"))
        self._running.clear()

    def _admit(self) -> bool:
        """Take what waits, as far as there is room; wait while there is nothing to do. False when the backend was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
            while self._waiting and len(self._running) < self._config.llm.max_batch and not self._closed:
                job, prompt, text = self._waiting.popleft()
                job.taken()
                try:
                    # New requests go first: their users wait for the first word.
                    self._running.appendleft(self._begin(job, prompt, text))
                    batch_sizes.add(len(self._running))
                except Exception as error:
                    log.exception("a key-value cache could not be taken over")
                    job.fail(EngineError(f"{type(error).__name__}: {error}"))
            return not self._closed

    def _begin(self, job: LlmJob, prompt: list[int], text: Detokenizer) -> _Work:
        """Take over the session's cache, as far as it holds the beginning of this prompt."""
        kept = self._kept.pop(job.session, None) or self._new_cache()
        # At least one token must go through the model, for what comes after it.
        common = min(common_prefix(kept.tokens, prompt), len(prompt) - 1)
        if common < len(kept.tokens):
            if common:
                kept.cache.crop(common - len(kept.tokens))
                del kept.tokens[common:]
            else:
                kept = self._new_cache()
        return _Work(job, prompt, text, prompt[common:], kept)

    def _step(self, work: _Work) -> bool:
        """One pass through the model. False when the answer is complete, or nobody wants it."""
        if work.job.withdrawn:
            return False
        begun_ns = time.monotonic_ns()
        part, work.todo = work.todo[:PREFILL_TOKENS], work.todo[PREFILL_TOKENS:]
        logits = self._forward(part, work.kept)
        token_id = -1 if work.todo else self._choose(self._unlike(work, logits), work.job.request.temperature)
        work.compute_ns += time.monotonic_ns() - begun_ns
        if work.todo:
            return True
        work.todo = [token_id]
        return self._give(work, token_id)

    def _give(self, work: _Work, token_id: int) -> bool:
        """Hand on a token. False when it is the last."""
        reason = text = ""
        if token_id in self._prompt.end_ids:
            reason = "stop"
        else:
            work.count += 1
            text = work.text.push(token_id)
            reason = "length" if work.count >= work.job.request.max_tokens else ""
        if text or reason:
            work.job.emit(LlmPiece(text, work.compute_ns, reason, len(work.prompt), work.count, work.job.queue_ns))
        return not reason

    def _finish(self, work: _Work) -> None:
        """Keep its cache for the session's next turn."""
        work.job.end()
        with self._changed:
            self._kept[work.job.session] = work.kept
            self._kept.move_to_end(work.job.session)
            while len(self._kept) > KEPT_SESSIONS:
                self._kept.popitem(last=False)

    def _forward(self, ids: list[int], kept: _Kept) -> Any:
        """Put ``ids`` through the model; its scores for the token after them."""
        with self._torch.inference_mode():
            inputs = self._torch.tensor([ids], device=self._device)
            result = self._model(input_ids=inputs, past_key_values=kept.cache, use_cache=True, logits_to_keep=1)
        kept.tokens.extend(ids)
        return result.logits[0, -1]

    def _unlike(self, work: _Work, logits: Any) -> Any:
        """Make what this answer has already less likely."""
        from transformers import RepetitionPenaltyLogitsProcessor

        said = work.kept.tokens[len(work.prompt) :]
        penalty = self._config.llm.repetition_penalty
        if not said or penalty == 1:
            return logits
        return RepetitionPenaltyLogitsProcessor(penalty)(self._torch.tensor([said], device=self._device), logits[None].float())[0]

    def _choose(self, logits: Any, temperature: float) -> int:
        if temperature <= 0:
            return int(logits.argmax())
        best = self._torch.topk(logits.float(), SAMPLED_TOKENS)
        probabilities = self._torch.softmax(best.values / temperature, dim=-1)
        return int(best.indices[self._torch.multinomial(probabilities, 1)])

    def _new_cache(self) -> _Kept:
        from transformers import DynamicCache

        return _Kept(DynamicCache(), [])


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens the two have in common at their beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _load(auto: Any, folder: Path, dtype: Any) -> Any:
    try:
        return auto.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelMissingError(f"llm.model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
