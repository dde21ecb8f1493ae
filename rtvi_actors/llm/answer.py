"""One answer on its way out: pieces of text in, LlmText and Clause frames out, and its figures."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from rtvi_actors.errors import EngineError, RtviActorsError
from rtvi_actors.frames.types import Clause, Error, LlmEnded, LlmStarted, LlmText, Metrics
from rtvi_actors.llm.clauses import ClauseCutter
from rtvi_actors.llm.engine import LlmPiece

if TYPE_CHECKING:
    from rtvi_actors.runtime.port import StagePort

log = logging.getLogger(__name__)

MAX_TEXT_CHARS = 4_000
"""Longest text of one LlmText frame."""

NS_PER_MS = 1_000_000


class Answer:
    """The answer of one attempt of a turn.

    To the edge go LlmStarted, LlmText as it comes, each Clause as soon as it is cut, LlmEnded last; to the TTS stage the clauses
    and LlmEnded, unless the answer is text only. White space at its two ends is left out, so that no clause is empty to the
    ear. The clauses, joined, are what the LlmText frames, joined, are, if the answer does not fail.

    ``spoken_error``: what is said instead of an answer that fails before its first clause; "": nothing. It is not the model's: who
    remembers answers looks at :attr:`excused`.
    """

    def __init__(self, port: StagePort, turn: int, attempt: int, *, spoken: bool, committed: bool, spoken_error: str = "") -> None:
        self.turn = turn
        self.attempt = attempt
        self.clauses: list[str] = []
        """What was cut so far."""
        self.complete = False
        """All clauses are there."""
        self._port = port
        self._spoken = spoken
        self.committed = committed
        """The answer counts. Before, it is on trial."""
        self.excused = False
        """There is no answer: the clauses only say so."""
        self._spoken_error = spoken_error
        self._failure: Error | None = None
        self._cutter = ClauseCutter()
        self._space = ""
        self._any_text = False
        self._begun_ms = port.now_ms()
        self._plays_from_ms: int | None = None
        """When the first clause was there and the answer counted: it is heard a moment later."""
        self._compute_ns = 0
        self._measured = True

    def commit(self) -> None:
        """The answer counts: it is heard from now on, and an error of it may be told."""
        self.committed = True
        self._note_playing()
        if self._failure is not None:
            self._port.send("edge", self._failure)
            self._failure = None

    async def run(self, user_text: str, pieces: AsyncGenerator[LlmPiece, None], default_reason: str = "stop") -> None:
        """Send all of it. Waits while the edge or the TTS stage has no room. Cancelling sends nothing more.

        An error of ``pieces`` ends the answer with reason ``error`` and the clauses so far, or with ``spoken_error`` if there
        are none.
        """
        self._measured = default_reason != "say"
        self._port.send("edge", LlmStarted(turn=self.turn, attempt=self.attempt, user_text=user_text))
        reason = default_reason
        last: LlmPiece | None = None
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    last = piece
                    reason = piece.finish_reason or reason
                    self._compute_ns = max(self._compute_ns, piece.compute_ns)
                    if piece.text:
                        await self._take(piece.text)
            if rest := self._cutter.end():
                await self._give(rest)
        except RtviActorsError as error:
            await self._fail(error)
            reason = "error"
        except Exception as error:
            # Whatever it is, the turn must end: the edge waits for LlmEnded.
            log.exception("the answer to turn %d of session %s failed", self.turn, self._port.session)
            await self._fail(EngineError(f"{type(error).__name__}: {error}"))
            reason = "error"
        self.complete = True
        self._send_totals(last)
        ended = LlmEnded(turn=self.turn, attempt=self.attempt, clauses=len(self.clauses), reason=reason)
        self._port.send("edge", ended)
        if self._spoken:
            self._port.send("tts", ended)

    async def _take(self, text: str) -> None:
        """Send ``text``, holding back white space until it is known that more follows."""
        text = self._space + text if self._any_text else text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if not kept:
            return
        if not self._any_text:
            self._any_text = True
            self._metric("ttfb_ms", self._port.now_ms() - self._begun_ms)
        for at in range(0, len(kept), MAX_TEXT_CHARS):
            part = kept[at : at + MAX_TEXT_CHARS]
            frame = LlmText(turn=self.turn, attempt=self.attempt, text=part)
            await self._port.send_credited("edge", "text", frame, len(part.encode()))
            for clause in self._cutter.push(part, self._played_ms()):
                await self._give(clause)

    async def _give(self, text: str) -> None:
        """Send a clause: to the edge first, since the TTS stage may have no room for a while."""
        number = len(self.clauses)
        if number == 0:
            self._metric("compute_ms", self._compute_ns / NS_PER_MS)
        self.clauses.append(text)
        self._note_playing()
        clause = Clause(turn=self.turn, attempt=self.attempt, clause=number, text=text, spoken=self._spoken)
        self._port.send("edge", clause)
        if self._spoken:
            await self._port.send_credited("tts", "clause", clause, len(text.encode()))

    def _note_playing(self) -> None:
        if self._plays_from_ms is None and self.committed and self.clauses and self._spoken:
            self._plays_from_ms = self._port.now_ms()

    def _played_ms(self) -> int:
        """How long the first clause may have been playing."""
        return 0 if self._plays_from_ms is None else self._port.now_ms() - self._plays_from_ms

    async def _fail(self, error: RtviActorsError) -> None:
        text = f"the language model failed: {error}" if not str(error).startswith("on_turn") else str(error)
        failure = Error(turn=self.turn, attempt=self.attempt, scope="turn", retryable=error.retryable, text=text)
        if self.committed:
            self._port.send("edge", failure)
        else:
            self._failure = failure
        if self._spoken_error.strip() and not self.clauses:
            await self._excuse()

    async def _excuse(self) -> None:
        """Say that there is no answer. What came of it is not said: half a clause says nothing."""
        self.excused = True
        # Whoever failed had all this time: it is not ours.
        self._compute_ns = max(self._compute_ns, (self._port.now_ms() - self._begun_ms) * NS_PER_MS)
        text = self._spoken_error.strip()
        shown = f" {text}" if self._any_text else text
        await self._port.send_credited(
            "edge", "text", LlmText(turn=self.turn, attempt=self.attempt, text=shown), len(shown.encode())
        )
        await self._give(text)  # in one piece, which sounds better: nothing of it has to be waited for

    def _send_totals(self, last: LlmPiece | None) -> None:
        if last is None:
            return
        self._metric("processing_ms", self._port.now_ms() - self._begun_ms)
        if last.completion_tokens:
            self._metric("prompt_tokens", last.prompt_tokens)
            self._metric("completion_tokens", last.completion_tokens)

    def _metric(self, name: str, value: float) -> None:
        if not self._measured:
            return
        self._port.send("edge", Metrics(turn=self.turn, attempt=self.attempt, segment="llm", name=name, value=float(value)))
