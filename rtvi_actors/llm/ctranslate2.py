"""A language model by CTranslate2: the fast way on a CPU.

Requests that wait are answered together, if their prompts have about the same length: CTranslate2 feeds the rest of a longer prompt
token by token. Two threads take them, so that a request does not wait for the whole answer of the one before it. Batches form at
arrival; a request never joins one that runs.

A prompt costs 1 to 2 ms per token, so the beginning of a session's next prompt is computed while nobody waits (``prefixes.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvi_actors.engines.batch_worker import Job
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError, ModelMissingError
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.prefixes import Prefixes, Prime
from rtvi_actors.llm.prompt import ChatPrompt, Detokenizer
from rtvi_actors.models.catalogue import form_for
from rtvi_actors.models.prepare import path_of
from rtvi_actors.observe.figures import batch_sizes

if TYPE_CHECKING:
    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

WORKERS = 2
"""Batches that run at the same time."""
MAX_LENGTH_DIFFERENCE = 16
"""Prompts of one batch differ by so many tokens at most."""
MAX_WAITING = 256
"""Requests that may wait; the next one is refused."""
KEPT_TOKENS = 3_072
"""Tokens of prompts that are kept computed, about 0.12 MB each."""
MIN_GAIN_TOKENS = 64
"""A beginning of a prompt is computed ahead if that saves so many, about 0.1 s."""
SAMPLED_TOKENS = 40
"""With a temperature: the likeliest tokens that are drawn from."""
CLOSE_TIMEOUT_S = 5.0

LlmJob = Job[LlmRequest, LlmPiece]


@dataclass(slots=True)
class _Work:
    """One request that is being worked on."""

    job: LlmJob
    tokens: list[str]
    text: Detokenizer
    answer: str = ""
    count: int = 0
    finished: bool = False


@dataclass(slots=True)
class _Batch:
    """Requests that are answered together. ``prefix``: the beginning of all their prompts that is kept computed."""

    works: list[_Work]
    prefix: tuple[str, ...]


class CTranslate2Llm:
    """An LlmBackend on CTranslate2, int8 on the CPU.

    ``compute_ns`` of a request is the wall time of its batch so far.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = Path()
        self._model: Any = None
        self._prompt: Any = None
        self._prefixes = Prefixes(KEPT_TOKENS, MIN_GAIN_TOKENS)
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._running = 0
        self._reloading = False
        self._closed = False
        self._threads: list[threading.Thread] = []

    @property
    def memory_bytes(self) -> int:
        """Size of the weights, and of the prompts that are kept computed."""
        weights = self._folder / "model.bin"
        return weights.stat().st_size + KEPT_TOKENS * 120_000 if weights.is_file() else 0

    def load(self) -> None:
        """Load the weights and start the threads.

        Raises:
            ModelMissingError: the files or the packages are not there.
        """
        self._folder = path_of(form_for("ctranslate2", self._config.llm.model), self._config)
        try:
            import ctranslate2
        except ImportError as error:
            raise ModelMissingError("llm.backend = 'ctranslate2': run pip install 'rtvi_actors[models]'") from error
        self._prompt = ChatPrompt(self._folder, self._config.llm.context_tokens)
        on_gpu = self._config.llm.num_gpus > 0
        try:
            self._model = ctranslate2.Generator(
                str(self._folder),
                device="cuda" if on_gpu else "cpu",
                compute_type="auto" if on_gpu else "int8",
                inter_threads=WORKERS,
                intra_threads=self._config.llm.threads,
            )
        except RuntimeError as error:
            raise ModelMissingError(f"llm.model in {self._folder} cannot be loaded: {error}") from error
        self._threads = [threading.Thread(target=self._main, name=f"llm-ctranslate2-{n}", daemon=True) for n in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def warm_up(self) -> None:
        """Answer once on each of the model's threads."""
        tokens = self._prompt.encode([ChatMessage("user", "Hello.")]).tokens
        self._model.generate_batch(
            [tokens] * WORKERS, max_batch_size=1, max_length=4, include_prompt_in_result=False, sampling_topk=1
        )

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
        work = _Work(job, self._prompt.encode(request.messages).tokens, self._prompt.detokenizer())
        with self._changed:
            if self._closed:
                raise EngineLostError("the language model is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise EngineTimeoutError(f"{MAX_WAITING} requests already wait for the language model")
            self._waiting.append(work)
            self._changed.notify()
        try:
            while (piece := await job.next_piece()) is not None:
                yield piece
        finally:
            job.withdraw()
            with self._changed, suppress(ValueError):
                self._waiting.remove(work)

    def forget(self, session: str) -> None:
        """Compute nothing ahead for it any more."""
        with self._changed:
            self._prefixes.forget(session)

    def close(self) -> None:
        """Fail what waits, stop what runs, end the threads."""
        with self._changed:
            self._closed = True
            orphans = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for work in orphans:
            work.job.fail(EngineLostError("the language model was closed"))
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)
            if thread.is_alive():
                log.warning("thread %s still works %s s after it was closed", thread.name, CLOSE_TIMEOUT_S)
        self._model = None

    # --------------------------------------------------------------------------------------------------- on its threads

    def _main(self) -> None:
        while (todo := self._next()) is not None:
            try:
                if isinstance(todo, Prime):
                    self._prime(todo)
                else:
                    self._answer(todo)
            finally:
                with self._changed:
                    self._running -= 1
                    self._reloading = False
                    self._changed.notify_all()

    def _next(self) -> _Batch | Prime | None:
        """Wait for a batch, or for a prompt to compute ahead when there is none; None when the backend was closed."""
        with self._changed:
            while not self._closed:
                todo = self._take_batch() or self._take_prime()
                if todo:
                    self._running += 1
                    return todo
                self._changed.wait()
            return None

    def _take_batch(self) -> _Batch | None:
        """The request that waits longest, and those that fit to it."""
        if not self._waiting or self._reloading:
            return None
        first = self._waiting[0]
        prefix = self._prefixes.longest(first.tokens)
        batch = [work for work in self._waiting if _fits(work, first, prefix)][: self._config.llm.max_batch]
        for work in batch:
            self._waiting.remove(work)
            work.job.taken()
        batch_sizes.add(len(batch))
        return _Batch(batch, prefix)

    def _take_prime(self) -> Prime | None:
        """When nothing else runs: it would take another's core, or forget what it uses."""
        if self._running > 0:
            return None
        prime = self._prefixes.next()
        self._reloading = prime is not None and prime.forget
        return prime

    def _prime(self, prime: Prime) -> None:
        try:
            if prime.forget:
                # The only way to let go of kept prompts; takes 0.1 s.
                self._model.unload_model()
                self._model.load_model()
            self._model.generate_batch(
                [[prime.tokens[0]]], max_length=1, include_prompt_in_result=False, sampling_topk=1, static_prompt=list(prime.tokens)
            )
        except Exception:
            log.exception("a prompt of %d tokens could not be computed ahead", len(prime.tokens))
        with self._changed:
            self._prefixes.primed(prime)

    def _answer(self, batch: _Batch) -> None:
        try:
            self._generate(batch)
        except Exception as error:
            # A model's own error must not end the thread: other requests still come.
            log.exception("the language model failed on a batch of %d", len(batch.works))
            for work in batch.works:
                work.job.fail(EngineError(f"{type(error).__name__}: {error}"))
        for work in batch.works:
            if self._closed and not work.finished:
                work.job.fail(EngineLostError("the language model was closed"))
            work.job.end()
            self._look_ahead(work)

    def _generate(self, batch: _Batch) -> None:
        begun_ns = time.monotonic_ns()
        temperature = batch.works[0].job.request.temperature

        def step(result: Any) -> bool:
            """A token of one member; True stops that member."""
            work = batch.works[result.batch_id]
            if self._closed or work.finished or work.job.withdrawn:
                return True
            self._give(work, result.token_id, time.monotonic_ns() - begun_ns)
            return work.finished

        self._model.generate_batch(
            [work.tokens[len(batch.prefix) :] for work in batch.works],
            static_prompt=list(batch.prefix) or None,
            max_length=max(work.job.request.max_tokens for work in batch.works),
            include_prompt_in_result=False,
            end_token=self._prompt.end_ids,
            sampling_topk=SAMPLED_TOKENS if temperature > 0 else 1,
            sampling_temperature=temperature if temperature > 0 else 1.0,
            repetition_penalty=self._config.llm.repetition_penalty,
            callback=step,
        )

    def _give(self, work: _Work, token_id: int, compute_ns: int) -> None:
        """Hand on a token, and the end of the answer if it is the last."""
        reason = text = ""
        if token_id in self._prompt.end_ids:
            reason = "stop"
        else:
            work.count += 1
            text = work.text.push(token_id)
            work.answer += text
            if work.count >= work.job.request.max_tokens:
                reason = "length"
        if not text and not reason:
            return
        work.job.emit(LlmPiece(text, compute_ns, reason, len(work.tokens), work.count, work.job.queue_ns))
        if reason:
            work.finished = True
            work.job.end()

    def _look_ahead(self, work: _Work) -> None:
        """The next prompt of this session will begin with this conversation and this answer, if it is heard to its end."""
        if not work.finished or not work.answer.strip():
            return
        messages = [*work.job.request.messages, ChatMessage("assistant", work.answer.strip())]
        with suppress(EngineError), self._changed:
            self._prefixes.want(work.job.session, self._prompt.encode_history(messages).tokens)


def _fits(work: _Work, first: _Work, prefix: tuple[str, ...]) -> bool:
    """Whether ``work`` can be answered in one batch with ``first``."""
    return (
        abs(len(work.tokens) - len(first.tokens)) <= MAX_LENGTH_DIFFERENCE
        and len(work.tokens) > len(prefix)
        and tuple(work.tokens[: len(prefix)]) == prefix
        and work.job.request.temperature == first.job.request.temperature
    )
