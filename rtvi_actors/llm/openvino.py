"""A language model by OpenVINO GenAI: the fastest way on a CPU.

Its pipeline batches continuously by itself: requests join and leave between steps, prompts are computed in parts beside the answers
that run, and the key-value cache is paged: beginnings of prompts that it has seen are not computed again, whoever's they are, until
the pages are needed (those that were used longest ago go first). When old messages are left out of a long conversation, its next
prompt begins anew: that is computed while nobody asks for anything, in parts, so that who asks meanwhile does not wait for long.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtvi_actors.errors import EngineError, EngineLostError, ModelMissingError
from rtvi_actors.llm.decoding import Answer, Outcome, StepWorker
from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest
from rtvi_actors.llm.kept import common_prefix
from rtvi_actors.llm.prompt import ChatPrompt
from rtvi_actors.models.catalogue import form_for
from rtvi_actors.models.prepare import path_of

if TYPE_CHECKING:
    from rtvi_actors.config import Config

log = logging.getLogger(__name__)

KEPT_TOKENS = 16_384
"""Tokens whose keys and values fit into the pages, those of the answers that run included; about 13 kB each with SmolLM2-135M."""
PAGE_TOKENS = 32
"""OpenVINO's size of a page on a CPU. Only whole pages are found again."""
STEP_TOKENS = 256
"""Tokens of prompts that are computed in one step: answers that run wait no longer than that."""
AHEAD_TOKENS = 64
"""Tokens that are computed ahead at a time, and fewer are not worth it."""
SAMPLED_TOKENS = 40
"""With a temperature: the likeliest tokens that are drawn from."""
MAX_PRESENCE_PENALTY = 2.0


@dataclass(slots=True)
class _Running:
    """One answer in the pipeline."""

    answer: Answer
    handle: Any


@dataclass(slots=True)
class _Ahead:
    """The beginning of a session's next prompt. ``done``: tokens of it that lie in pages."""

    ids: list[int]
    done: int


class OpenVinoLlm:
    """An LlmBackend and a StepModel on OpenVINO GenAI, on the CPU only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = Path()
        self._prompt: Any = None
        self._pipeline: Any = None
        self._numbers = count()
        self._running: dict[Answer, _Running] = {}
        self._lock = threading.Lock()
        self._ahead: OrderedDict[str, _Ahead] = OrderedDict()
        """By session, the newest last."""
        self._worker: StepWorker | None = None

    @property
    def memory_bytes(self) -> int:
        """Size of the weights, and of the pages."""
        weights = self._folder / "openvino_model.bin"
        return weights.stat().st_size + KEPT_TOKENS * 13_000 if weights.is_file() else 0

    def load(self) -> None:
        """Load the weights and start the thread.

        Raises:
            ModelMissingError: the files or the packages are not there, or a GPU is asked for.
        """
        if self._config.llm.num_gpus > 0:
            raise ModelMissingError("llm.backend = 'openvino' runs on the CPU: take 'transformers' with llm.num_gpus")
        self._folder = path_of(form_for("openvino", self._config.llm.model), self._config)
        self._prompt = ChatPrompt(self._folder, self._config.llm.context_tokens)
        try:
            import openvino_genai
        except ImportError as error:
            raise ModelMissingError("llm.backend = 'openvino': run pip install 'rtvi_actors[models]'") from error
        pages = openvino_genai.SchedulerConfig()
        pages.num_kv_blocks = self._kept_tokens() // PAGE_TOKENS
        pages.enable_prefix_caching = True
        pages.dynamic_split_fuse = True
        pages.max_num_batched_tokens = STEP_TOKENS
        pages.max_num_seqs = self._config.llm.max_batch
        threads = {"INFERENCE_NUM_THREADS": self._config.llm.threads}
        try:
            self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(self._folder), pages, "CPU", threads)
        except RuntimeError as error:
            raise ModelMissingError(f"llm.model in {self._folder} cannot be loaded: {str(error).splitlines()[-1]}") from error
        self._worker = StepWorker("llm-openvino", self, self._prompt, self._config.llm.max_batch)

    def _kept_tokens(self) -> int:
        """At least what all answers of a full batch take, with room for as much again."""
        llm = self._config.llm
        return max(KEPT_TOKENS, 2 * llm.max_batch * (llm.context_tokens + llm.max_tokens))

    def warm_up(self) -> None:
        """Answer once. Before the first request: the thread waits for one."""
        handle = self._add(list(self._prompt.encode([ChatMessage("user", "Hello.")]).ids), max_tokens=4, temperature=0.0)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        handle.read_all()

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """Answer ``request``; see :meth:`StepWorker.stream`."""
        if self._worker is None:
            raise EngineLostError("the language model is not loaded")
        async for piece in self._worker.stream(session, request):
            yield piece

    def forget(self, session: str) -> None:
        """Compute nothing ahead for it. Its pages are overwritten in time."""
        with self._lock:
            self._ahead.pop(session, None)

    def close(self) -> None:
        """Fail what waits and runs, end the thread."""
        if self._worker is not None:
            self._worker.close()
        self._pipeline = None

    # ------------------------------------------------------------------------------------------------ for the StepWorker

    def join(self, answer: Answer) -> None:
        """Give it to the pipeline."""
        request = answer.job.request
        self._running[answer] = _Running(answer, self._add(answer.prompt, request.max_tokens, request.temperature))

    def step(self) -> Iterator[tuple[Answer, Outcome]]:
        """One step of the pipeline, and what it gave."""
        import openvino_genai

        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        for running in list(self._running.values()):
            tokens: list[int] = []
            while running.handle.can_read():
                for output in running.handle.read().values():
                    tokens.extend(output.generated_ids)
            status = running.handle.get_status()
            if tokens:
                yield running.answer, tokens
            elif status == openvino_genai.GenerationStatus.IGNORED:
                yield running.answer, EngineError("the prompt does not fit into the pages of the key-value cache")
            elif status != openvino_genai.GenerationStatus.RUNNING:
                yield running.answer, EngineError(f"the answer ended as {status.name}")

    def leave(self, answer: Answer) -> None:
        """Take it out of the pipeline, before its next step. Its pages stay for the session's next turn."""
        running = self._running.pop(answer, None)
        if running is not None:
            running.handle.stop()
        if answer.complete and answer.written.strip():
            self._expect(answer)

    def look_ahead(self) -> bool:
        """A part of the newest prompt that is expected."""
        with self._lock:
            if not self._ahead:
                return False
            session, ahead = next(reversed(self._ahead.items()))
        ahead.done = min(ahead.done + AHEAD_TOKENS, len(ahead.ids))
        handle = self._add(ahead.ids[: ahead.done], max_tokens=1, temperature=0.0)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        handle.read_all()
        with self._lock:
            if ahead.done == len(ahead.ids) and self._ahead.get(session) is ahead:
                del self._ahead[session]
            return bool(self._ahead)

    def _expect(self, answer: Answer) -> None:
        """The session's next prompt will begin with this conversation, if it is heard to its end."""
        messages = [*answer.job.request.messages, ChatMessage("assistant", answer.written.strip())]
        try:
            ids = list(self._prompt.encode_history(messages).ids)
        except EngineError:
            return
        known = common_prefix([*answer.prompt, *answer.said], ids) // PAGE_TOKENS * PAGE_TOKENS
        if len(ids) - known < AHEAD_TOKENS:
            return
        with self._lock:
            self._ahead[answer.job.session] = _Ahead(ids, known)
            self._ahead.move_to_end(answer.job.session)

    def _add(self, prompt: list[int], max_tokens: int, temperature: float) -> Any:
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.stop_token_ids = set(self._prompt.end_ids)
        config.presence_penalty = presence_penalty(self._config.llm.repetition_penalty)
        config.do_sample = temperature > 0
        if temperature > 0:
            config.temperature, config.top_k = temperature, SAMPLED_TOKENS
            config.rng_seed = int(np.random.default_rng().integers(2**31))
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        return self._pipeline.add_request(next(self._numbers), ids, config)


def presence_penalty(repetition_penalty: float) -> float:
    """What stands for ``llm.repetition_penalty`` here: taken from the scores of tokens that an answer has already.

    OpenVINO's own repetition penalty counts the prompt's tokens, too: an answer would avoid the words of its question, and the mark
    that ends it. With scores around 20 a penalty of 1.2 takes off some 3; more than 2 is not allowed.
    """
    return min(MAX_PRESENCE_PENALTY, 20 * (1 - 1 / repetition_penalty))
