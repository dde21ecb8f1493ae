"""A client that needs no server, in the place of the real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from rtvi_actors.cli import demo, talk
from rtvi_actors.testing.client import Received, Turn, Utterance


class FakeClient:
    """Answers each utterance with its number."""

    made: ClassVar[list[FakeClient]] = []
    end = "bot-interrupted"

    def __init__(self, url: str) -> None:
        self.url = url
        self.ready_ms = 12.0
        self.bot_version = "2.2.0"
        self.messages: list[Received] = []
        self.said: list[str | bytes] = []
        self.waited: list[Received] = []
        FakeClient.made.append(self)

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.said.append("closed")

    def say(self, pcm: bytes) -> Utterance:
        self.said.append(pcm)
        utterance = Utterance(pcm, 0, 0, started_ns=1_000_000, ended_ns=2_000_000)
        utterance.done.set()
        return utterance

    def send_text(self, text: str) -> Utterance:
        self.said.append(text)
        return Utterance(b"", 0, 0)

    async def turn(self, utterance: Utterance) -> Turn:
        answer = f"answer {len(self.said)}"
        return Turn(transcripts=["words"], answer=answer, audio=b"" if answer == "answer 3" else bytes(2 * 240))

    def heard(self, utterance: Utterance) -> Turn:
        return Turn(transcripts=["first"], answer="begun")

    async def wait(self, accept: Callable[[Received], bool], deadline_s: float, start: int = 0) -> Received:
        kinds = ("bot-started-speaking", self.end)
        found = next(message for kind in kinds if accept(message := Received(kind, None, None, 301_000_000)))
        self.waited.append(found)
        return found


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    monkeypatch.setattr(FakeClient, "made", [])
    for module in (talk, demo):
        monkeypatch.setattr(module, "RtviClient", FakeClient)
    return FakeClient.made
