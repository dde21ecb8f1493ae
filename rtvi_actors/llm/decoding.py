"""Continuous batching: one thread, all answers one step at a time, requests join and leave between steps.

The model behind it (:class:`StepModel`) knows tokens only. What is the same for all models is here: waiting and admission, pieces
of text, the end of an answer, withdrawal, and failing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rtvi_actors.engines.batch_worker import Job
from rtvi_actors.errors import EngineError, EngineLostError, EngineTimeoutError
from rtvi_actors.llm.engine import LlmPiece, LlmRequest
from rtvi_actors.llm.prompt import ChatPrompt, Detokenizer
from rtvi_actors.observe.figures import batch_sizes

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Requests that may wait; the next one is refused."""
CLOSE_TIMEOUT_S = 5.0
YIELD_S = 0.0005
"""Between two steps, for the event loop to hand on what the first one gave: OpenVINO holds the interpreter while it steps, and each
token would be a step late."""


@dataclass(slots=True, eq=False)
class Answer:
    """One request and what it has so far. ``said``: the tokens of the answer; ``written``: their text."""

    job: Job[LlmRequest, LlmPiece]
    prompt: list[int]
    text: Detokenizer
    said: list[int] = field(default_factory=list)
    written: str = ""
    complete: bool = False
    """It ended by itself; others were withdrawn, or failed."""
    compute_ns: int = 0


Outcome = list[int] | EngineError
"""What a step gave an answer: tokens, or the reason why there will be no more."""


class StepModel(Protocol):
    """A model that decodes several answers together. Called from one thread."""

    def join(self, answer: Answer) -> None:
        """Take part in the next steps."""

    def step(self) -> Iterable[tuple[Answer, Outcome]]:
        """Work on all that joined, for some 10 ms. Those whose prompt is still being computed get nothing."""

    def leave(self, answer: Answer) -> None:
        """It is complete, withdrawn or failed. Called once for each that joined."""

    def look_ahead(self) -> bool:
        """Nobody asks for anything: compute some 50 ms of what may be asked for next. False if there is nothing."""


class StepWorker:
    """A daemon thread named ``name`` that runs ``model`` while there is something to answer.

    ``compute_ns`` of a request is the wall time of the steps that it took part in.
    """

    def __init__(self, name: str, model: StepModel, prompt: ChatPrompt, max_batch: int) -> None:
        self._model = model
        self._prompt = prompt
        self._end_ids: Collection[int] = frozenset(prompt.end_ids)
        self._max_batch = max_batch
        self._changed = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        self._looks_ahead = False
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything is being answered."""
        return bool(self._running)

    async def stream(self, session: str, request: LlmRequest) -> AsyncGenerator[LlmPiece, None]:
        """Answer ``request``, a piece per token. Closing the iterator stops it within one step.

        Raises:
            EngineError: the chat template refuses the messages, or the model failed.
            EngineTimeoutError: too many requests wait.
            EngineLostError: the worker was closed.
        """
        # On the event loop, since the queue keeps the order of arrival: 1 ms for a long prompt.
        answer = Answer(Job(session, request), list(self._prompt.encode(request.messages).ids), self._prompt.detokenizer())
        with self._changed:
            if self._closed:
                raise EngineLostError("the language model is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise EngineTimeoutError(f"{MAX_WAITING} requests already wait for the language model")
            self._waiting.append(answer)
            self._changed.notify()
        try:
            while (piece := await answer.job.next_piece()) is not None:
                yield piece
        finally:
            answer.job.withdraw()
            with self._changed, suppress(ValueError):
                self._waiting.remove(answer)

    def close(self) -> None:
        """Fail what waits and runs, end the thread."""
        with self._changed:
            self._closed = True
            orphans = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for answer in orphans:
            answer.job.fail(EngineLostError("the language model was closed"))
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("thread %s still works %s s after it was closed", self._thread.name, CLOSE_TIMEOUT_S)

    # --------------------------------------------------------------------------------------------------- on its thread

    def _main(self) -> None:
        while self._admit():
            for answer in [answer for answer in self._running if answer.job.withdrawn]:
                self._leave(answer)
            if self._running:
                self._step()
            elif self._looks_ahead:
                self._look_ahead()
        for answer in list(self._running):
            answer.job.fail(EngineLostError("the language model was closed"))
            self._leave(answer)

    def _admit(self) -> bool:
        """Let those that wait join, as far as there is room; wait while there is nothing to do. False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._running or self._looks_ahead)
            if self._closed:
                return False
            room = self._max_batch - sum(not answer.job.withdrawn for answer in self._running)
            joining = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        for answer in joining:
            answer.job.taken()
            try:
                self._model.join(answer)
            except Exception as error:
                log.exception("a request could not be taken")
                answer.job.fail(_engine_error(error))
            else:
                self._running.append(answer)
        if joining:
            batch_sizes.add(len(self._running))
        return True

    def _step(self) -> None:
        begun_ns = time.monotonic_ns()
        try:
            outcomes = list(self._model.step())
        except Exception as error:
            # A model's own error must not end the thread: other requests still come.
            log.exception("the language model failed on a batch of %d", len(self._running))
            outcomes = [(answer, _engine_error(error)) for answer in self._running]
        took_ns = time.monotonic_ns() - begun_ns
        for answer in self._running:
            answer.compute_ns += took_ns
        for answer, outcome in outcomes:
            if isinstance(outcome, EngineError):
                answer.job.fail(outcome)
            else:
                self._give(answer, outcome)
            if answer.job.withdrawn:
                self._leave(answer)
        time.sleep(YIELD_S)

    def _give(self, answer: Answer, tokens: list[int]) -> None:
        """Hand on tokens, and the end of the answer with the last one."""
        for token in tokens:
            reason = text = ""
            if token in self._end_ids:
                reason = "stop"
            else:
                answer.said.append(token)
                text = answer.text.push(token)
                answer.written += text
                reason = "length" if len(answer.said) >= answer.job.request.max_tokens else ""
            if text or reason:
                counts = (len(answer.prompt), len(answer.said), answer.job.queue_ns)
                answer.job.emit(LlmPiece(text, answer.compute_ns, reason, *counts))
            if reason:
                answer.complete = True
                answer.job.end()
                return

    def _leave(self, answer: Answer) -> None:
        self._running.remove(answer)
        try:
            self._model.leave(answer)
        except Exception:
            log.exception("a request could not leave its batch")
        self._looks_ahead = True

    def _look_ahead(self) -> None:
        try:
            self._looks_ahead = self._model.look_ahead()
        except Exception:
            log.exception("nothing could be computed ahead")
            self._looks_ahead = False


def _engine_error(error: Exception) -> EngineError:
    return error if isinstance(error, EngineError) else EngineError(f"{type(error).__name__}: {error}")
