"""An end-of-turn model of the application's: what it has to be, and the thread that it runs on.

``speaking.endpointing = "module:Class"`` in the configuration names it. It is made once in each process of speaking stages, as
``Class(config)``, and serves all of its sessions, on one thread of its own::

    class Patient:
        def __init__(self, config):
            self._model = load_my_model()

        def finished(self, text, language, pauses_ms):
            return self._model.probability(text)

A verdict has 100 ms (``turn.JUDGE_LIMIT_MS``), counted from the transcript. The rules judge where it comes later, fails, or is no
number from 0 to 1; the log says so once. The event loop never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from rtvi_actors.errors import ConfigError, RtviActorsError
from rtvi_actors.runtime.process import load_class
from rtvi_actors.speaking.events import AskEnd

if TYPE_CHECKING:
    from rtvi_actors.config import Config

KEY: Final = "speaking.endpointing"
RULES: Final = "rules"
MAX_WAITING: Final = 32
"""Questions that wait for the model. One more is left to the rules at once."""

log = logging.getLogger(__name__)


class EndOfTurnModel(Protocol):
    """What a model must be. Pure as far as the caller can see: the same question has the same answer. Called from one thread."""

    def __init__(self, config: Config) -> None: ...

    def finished(self, text: str, language: str, pauses_ms: tuple[int, ...]) -> float:
        """How likely the user has finished, from 0 (goes on for sure: wait ``long_wait_ms``) to 1 (wait ``short_wait_ms``).

        Args:
            text: what the user has said in this turn; never empty.
            language: of ``text``, as BCP 47, "" if it is not known.
            pauses_ms: the pauses inside the turn behind which the user went on, oldest first.
        """


def model_class(spec: str) -> type[EndOfTurnModel] | None:
    """The class that ``spec`` names; None for the rules.

    Raises:
        ConfigError: it cannot be found, or has no method ``finished``.
    """
    if spec == RULES:
        return None
    found = load_class(spec, KEY)
    if not callable(getattr(found, "finished", None)):
        raise ConfigError(f"{KEY} = {spec!r}: the class has no method finished(text, language, pauses_ms)")
    return found


def load_model(config: Config) -> EndOfTurnModel | None:
    """The model of the configuration; None for the rules. May take long.

    Raises:
        ConfigError: it cannot be found or made.
        RtviActorsError: of its own.
    """
    spec = config.speaking.endpointing
    found = model_class(spec)
    if found is None:
        return None
    try:
        return found(config)
    except RtviActorsError:
        raise
    except Exception as error:  # whatever an application's class raises
        raise ConfigError(f"{KEY} = {spec!r}: it cannot be made: {type(error).__name__}: {error}") from error


class Judge:
    """Asks ``model``, one question at a time, on a thread of its own."""

    def __init__(self, model: EndOfTurnModel) -> None:
        self._model = model
        self._questions: queue.Queue[_Question | None] = queue.Queue(MAX_WAITING)
        self._complained = False
        # A model that hangs must not keep the process from ending, hence a daemon.
        threading.Thread(target=self._work, name="end of turn", daemon=True).start()

    def ask(self, question: AskEnd, answer: Callable[[float | None], None]) -> None:
        """Call ``answer`` on the running event loop with the probability, or with None where the rules are to judge."""
        loop = asyncio.get_running_loop()
        try:
            self._questions.put_nowait(_Question(question, loop, answer))
        except queue.Full:
            self._complain("it is too slow: too many questions wait for it")
            loop.call_soon(answer, None)

    def close(self) -> None:
        """Let the thread end behind the question that it works on."""
        while True:
            try:
                self._questions.put_nowait(None)
                return
            except queue.Full:
                self._drop_one()

    def _drop_one(self) -> None:
        try:
            self._questions.get_nowait()
        except queue.Empty:
            return

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            question.reply(self._ask(question.asked))

    def _ask(self, asked: AskEnd) -> float | None:
        try:
            probability = float(self._model.finished(asked.text, asked.language, asked.pauses_ms))
        except Exception as error:  # whatever an application's class raises
            self._complain(f"{type(error).__name__}: {error}")
            return None
        if not 0.0 <= probability <= 1.0 or math.isnan(probability):
            self._complain(f"{probability} is no probability")
            return None
        return probability

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the end-of-turn model failed, and the rules judge instead; further failures are not logged: %s", why)


class _Question:
    def __init__(self, asked: AskEnd, loop: asyncio.AbstractEventLoop, answer: Callable[[float | None], None]) -> None:
        self.asked = asked
        self._loop = loop
        self._answer = answer

    def reply(self, probability: float | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer, probability)
        except RuntimeError:
            log.debug("the process ended before the verdict on turn %d", self.asked.turn)
