"""Whole turns, from the stages' frames to what a client reads, compared byte for byte with tests/data/golden.

After a change that is meant, ``python tests/unit/rtvi/test_golden.py`` writes the files anew: read the difference, then commit it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rtvi_actors.edge.join import Join, Output, Play, Typed
from rtvi_actors.edge.playout import BotStateChanged, Grant, Heard, Playout, PlayoutEvent, SendAudio, Tick, WakeAt
from rtvi_actors.frames.types import (
    AudioEnded,
    BotAudio,
    Cancel,
    Clause,
    Error,
    Frame,
    LlmEnded,
    LlmStarted,
    LlmText,
    Marks,
    Metrics,
    Pause,
    Resume,
    SpeechResumed,
    Transcript,
    TurnEnded,
    TurnStarted,
)
from rtvi_actors.observe.latency import ArrivalTimes, Latency
from rtvi_actors.rtvi.events import BotStarted, Event
from rtvi_actors.rtvi.handshake import ready
from rtvi_actors.rtvi.messages import Message, to_json
from rtvi_actors.rtvi.translate import Translator

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
ABOUT = {"library": "rtvi_actors", "library_version": "0"}


class Client:
    """What one client is sent, on a clock that only moves when it is told to."""

    def __init__(self, version: str = "2.1.0") -> None:
        self.lines: list[str] = []
        self._now_ms = 0
        self._wake_ms: int | None = None
        self._join = Join()
        self._playout = Playout(80)
        self._arrivals = ArrivalTimes()
        self._latency = Latency(self._arrivals)
        replies, client_version = ready(Message("client-ready", {"version": version}, "c1"), ABOUT, {"audio_in": True})
        self._translator = Translator(client_version)
        self._send(replies)

    def at(self, now_ms: int, *events: Frame | Typed) -> None:
        """Let the time pass, then take ``events``."""
        while self._wake_ms is not None and self._wake_ms <= now_ms:
            self._now_ms = self._wake_ms
            self._play(Tick())
        self._now_ms = now_ms
        for event in events:
            if isinstance(event, Frame):
                self._latency.handle(event)
            self._run(self._join.handle(event))

    def hears(self, until_ms: int) -> None:
        """The user's audio arrives, 16 samples a millisecond."""
        self._arrivals.add(0, until_ms * 16, until_ms * 1_000_000)

    def _run(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Play):
                self._play(output.event)
            elif not isinstance(output, Grant):
                self._tell(output)

    def _play(self, event: PlayoutEvent) -> None:
        self._wake_ms = None
        for command in self._playout.handle(event, self._now_ms):
            match command:
                case WakeAt():
                    self._wake_ms = command.at_ms
                case Heard():
                    self._run(self._join.handle(command))
                    self._tell(self._latency.finish(command.turn))
                case SendAudio() | Grant() | BotStateChanged():
                    pass
                case _:
                    self._tell(command)
            if isinstance(command, BotStarted):
                self._tell(self._latency.first_sound(command.turn, self._now_ms * 1_000_000))

    def _tell(self, event: Event | None) -> None:
        if event is not None:
            timestamp = (MIDNIGHT + timedelta(milliseconds=self._now_ms)).isoformat(timespec="milliseconds")
            self._send(self._translator.handle(event, timestamp))

    def _send(self, messages: list[Message]) -> None:
        self.lines += [to_json(message) for message in messages]


class Stages:
    """Frames of one turn and attempt, sent at ``at_ms``."""

    def __init__(self, turn: int, at_ms: int = 0, attempt: int = 1) -> None:
        self.where = {"turn": turn, "attempt": attempt, "sent_ns": at_ms * 1_000_000}

    def started(self, source: str = "speech", *, under_bot: bool = False) -> Frame:
        return TurnStarted(**{**self.where, "attempt": 0}, request="r", source=source, under_bot=under_bot)

    def ended(self, last_sample: int) -> Frame:
        return TurnEnded(**self.where, last_sample=last_sample)

    def heard(self, text: str) -> Frame:
        return Transcript(**self.where, text=text, final=True, language="en")

    def begins(self, user_text: str) -> Frame:
        return LlmStarted(**self.where, user_text=user_text)

    def says(self, number: int, *pieces: str, spoken: bool = True) -> list[Frame]:
        """One clause, token by token."""
        texts = [LlmText(**self.where, text=piece) for piece in pieces]
        return [*texts, Clause(**self.where, clause=number, text="".join(pieces), spoken=spoken)]

    def stops(self, clauses: int, reason: str = "stop") -> Frame:
        return LlmEnded(**self.where, clauses=clauses, reason=reason)

    def sounds(self, number: int, frames: int) -> list[Frame]:
        """The clause's audio, 40 ms a frame."""
        audio = [BotAudio(**self.where, clause=number, first_sample=960 * place, pcm=bytes(1_920)) for place in range(frames)]
        return [*audio, AudioEnded(**self.where, clause=number, samples=960 * frames)]

    def words(self, number: int, marks: list[list[int]]) -> Frame:
        """When the clause's words are said."""
        return Marks(**self.where, clause=number, marks=marks)

    def figure(self, segment: str, name: str, value: float) -> Frame:
        return Metrics(**self.where, segment=segment, name=name, value=value)


def answered_turn(client: Client) -> None:
    """Turn 1: spoken, answered in two clauses, speculated upon."""
    client.hears(400)
    client.at(50, Stages(1, 50).started())
    client.at(520, Stages(1, 520).heard("What is it?"), Stages(1, 520).figure("stt", "ttfb_ms", 60.0))
    client.at(560, Stages(1, 560).begins("What is it?"), *Stages(1, 560).says(0, "It is", " a test. "))
    client.at(610, Stages(1, 605).ended(6_400), *Stages(1, 610).says(1, "Really."), Stages(1, 610).stops(2))
    words = Stages(1, 655).words(0, [[400, 0], [1_500, 2], [2_900, 5], [3_700, 7], [7_000, 13]])
    client.at(660, Stages(1, 655).figure("tts", "compute_ms", 40.0), words, *Stages(1, 655).sounds(0, 8))
    client.at(700, *Stages(1, 700).sounds(1, 6), Stages(1, 700).figure("llm", "completion_tokens", 6.0))


def spoken_turn() -> Client:
    client = Client()
    answered_turn(client)
    client.at(3_000)
    return client


def resumed_speech() -> Client:
    """The user goes on after the first attempt; its answer is never seen."""
    client = Client()
    client.at(0, Stages(1).started(), Stages(1).heard("I want"), Stages(1).begins("I want"), *Stages(1).says(0, "What?"))
    client.at(100, SpeechResumed(turn=1, attempt=1), *Stages(1).sounds(0, 3))
    second = Stages(1, attempt=2)
    client.at(300, second.heard("I want tea."), second.ended(0), second.begins("I want tea."), *second.says(0, "Here."))
    client.at(400, second.stops(1), *second.sounds(0, 4))
    client.at(2_000)
    return client


def barge_in_confirmed() -> Client:
    client = Client()
    answered_turn(client)
    client.at(900, Stages(2).started(under_bot=True))
    client.at(1_000, Pause(turn=1))
    client.at(1_200, Stages(2).heard("Stop."), Cancel(fence=2, reason="barge-in"), *Stages(1).sounds(1, 1))
    client.at(1_400, Stages(2).ended(0), Stages(2).begins("Stop."), *Stages(2).says(0, "Fine."), Stages(2).stops(1))
    client.at(1_500, *Stages(2).sounds(0, 5))
    client.at(3_000)
    return client


def false_barge_in() -> Client:
    client = Client()
    answered_turn(client)
    client.at(900, Stages(2).started(under_bot=True))
    client.at(1_000, Pause(turn=1))
    client.at(1_300, Stages(2).heard(""), Stages(2).ended(0), Resume(turn=1))
    client.at(3_000)
    return client


def typed_turn() -> Client:
    """Typed into the bot's speech: it is interrupted, and answers in words and voice."""
    client = Client()
    answered_turn(client)
    client.at(900, Typed("r", "And you?", "m7", run=True))
    client.at(910, Cancel(fence=2, reason="text"), Stages(2, 910).started("text"))
    client.at(950, Stages(2, 950).begins("And you?"), *Stages(2, 950).says(0, "Me too."), Stages(2, 950).stops(1))
    client.at(990, *Stages(2, 990).sounds(0, 5))
    client.at(3_000)
    return client


def text_only_answer() -> Client:
    client = Client()
    client.at(0, Typed("n", "By the way", "m1", run=False), Typed("r", "And you?", "m2", run=True))
    client.at(0, Cancel(fence=1, reason="text"), Stages(1).started("text"), Stages(1).begins("And you?"))
    client.at(100, *Stages(1).says(0, "Me ", "too. ", spoken=False), *Stages(1).says(1, "Bye.", spoken=False))
    client.at(200, Stages(1).stops(2))
    client.at(1_000)
    return client


def said_turn() -> Client:
    client = Client()
    answer = [Clause(**Stages(1).where, clause=0, text="Welcome."), Stages(1).stops(1, "say")]
    client.at(0, Stages(1).started("say"), Stages(1).begins(""), *answer, *Stages(1).sounds(0, 5))
    client.at(1_000)
    return client


def void_turn() -> Client:
    client = Client()
    client.at(0, Stages(1).started(), Stages(1).ended(0))
    slow = Error(turn=1, attempt=1, scope="turn", retryable=True, text="the transcript took too long")
    client.at(100, slow, Stages(1).heard(""))
    client.at(1_000)
    return client


def failed_clause() -> Client:
    client = Client()
    client.at(0, Stages(1).started(), Stages(1).heard("Hi."), Stages(1).ended(0), Stages(1).begins("Hi."))
    client.at(50, *Stages(1).says(0, "One. "), *Stages(1).says(1, "Two. "), *Stages(1).says(2, "Three."), Stages(1).stops(3))
    lost = Error(turn=1, attempt=1, scope="turn", retryable=False, text="the voice failed")
    client.at(100, *Stages(1).sounds(0, 4), lost, *Stages(1).sounds(1, 0), *Stages(1).sounds(2, 4))
    client.at(2_000)
    return client


def legacy_client() -> Client:
    client = Client("1.2.0")
    answered_turn(client)
    client.at(1_000, Stages(2).started(under_bot=True), Pause(turn=1), Cancel(fence=2, reason="barge-in"))
    client.at(3_000)
    return client


SCRIPTS: list[Callable[[], Client]] = [
    spoken_turn,
    resumed_speech,
    barge_in_confirmed,
    false_barge_in,
    typed_turn,
    text_only_answer,
    said_turn,
    void_turn,
    failed_clause,
    legacy_client,
]


def text_of(script: Callable[[], Client]) -> str:
    """A JSON array, one message a line as it is sent."""
    return "[\n" + ",\n".join(script().lines) + "\n]\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_client_reads_what_it_always_read(script: Callable[[], Client]) -> None:
    assert text_of(script) == (GOLDEN / f"{script.__name__}.json").read_text(encoding="utf-8")


def test_every_golden_file_has_its_script() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {script.__name__ for script in SCRIPTS}
    assert all(json.loads(path.read_text(encoding="utf-8")) for path in GOLDEN.glob("*.json"))


if __name__ == "__main__":
    for each in SCRIPTS:
        (GOLDEN / f"{each.__name__}.json").write_text(text_of(each), encoding="utf-8")
