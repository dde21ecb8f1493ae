"""Whole conversations with real models, over the real socket, in real time."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from rtvi_actors.config import Config
from rtvi_actors.testing.client import Received, RtviClient
from rtvi_actors.testing.recordings import AUDIBLE_RMS, rms

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def heard_right(transcripts: list[str], said: str) -> bool:
    """Whether most of the words are there: the smallest model hears some of them wrong."""
    return len(words(" ".join(transcripts)) & words(said)) >= 0.6 * len(words(said))


def firsts(messages: list[Received], kinds: list[str]) -> list[int]:
    """Where the first message of each kind stands."""
    types = [message.type for message in messages]
    return [types.index(kind) for kind in kinds]


SPOKEN = [
    "user-started-speaking",
    "user-stopped-speaking",
    "user-llm-text",
    "bot-llm-started",
    "bot-llm-text",
    "bot-tts-started",
    "bot-started-speaking",
    "bot-tts-stopped",
    "bot-stopped-speaking",
]


async def test_a_spoken_turn(app: Any, connected: Any, utterances: Any) -> None:
    said = utterances[-1]
    async with connected(app.ws_url, microphone=True) as client:
        turn = await client.turn(client.say(said.pcm), deadline_s=120)
        messages = client.messages
        assert len(turn.transcripts) == 1, "one turn, not cut"
        assert heard_right(turn.transcripts, said.text), turn.transcripts
        assert turn.answer.strip()
        assert turn.errors == []
        assert rms(turn.audio) > AUDIBLE_RMS
        assert turn.voice_to_voice_ms is not None
        await client.wait_type("metrics")
        order = firsts(messages, SPOKEN)
        assert order == sorted(order), [message.type for message in messages]
        for kind in ("bot-llm-started", "bot-llm-stopped", "bot-tts-started", "bot-tts-stopped", "bot-started-speaking"):
            assert [message.type for message in messages].count(kind) == 1
        finals = [message for message in messages if message.type == "user-transcription" and message.data["final"]]
        stopped = next(message for message in messages if message.type == "user-stopped-speaking")
        assert messages.index(stopped) < messages.index(finals[0]), "nothing final is told before the commit"
        latency = [figures for message in messages if message.type == "metrics" for figures in message.data.get("turn_latency", [])]
        assert [segment["name"] for segment in latency[0]["segments"]] == [
            "endpointing",
            "stt",
            "llm",
            "clause",
            "tts",
            "playout",
        ]


async def test_typed_turns_are_remembered(app: Any, connected: Any) -> None:
    async with connected(app.ws_url) as client:
        spoken = await client.turn(client.send_text("My name is Robert. Say hello to me."))
        assert rms(spoken.audio) > AUDIBLE_RMS
        silent = client.send_text("And now without a voice.", audio_response=False)
        await client.wait_type("bot-llm-stopped", start=silent.first_message)
        # It is quiet by now if it is to be: the next turn comes behind it on the same socket.
        again = client.send_text("What is my name?")
        before = len(client.audio)
        assert before == silent.first_audio
        assert "bot-started-speaking" not in {
            message.type for message in client.messages[silent.first_message : again.first_message]
        }
        turn = await client.turn(again)
        assert turn.errors == []
        texts = [message.data["text"] for message in client.messages if message.type == "user-llm-text"]
        assert [text.split()[0] for text in texts] == ["My", "And", "What"]


async def test_text_that_runs_nothing_is_read_with_the_next(app: Any, connected: Any) -> None:
    async with connected(app.ws_url) as client:
        client.send_text("The code word is banana.", run_immediately=False)
        turn = await client.turn(client.send_text("Repeat the code word."))
        assert turn.answer.strip()
        assert [message.type for message in client.messages].count("bot-llm-started") == 1


@pytest.mark.parametrize("wire", ["protobuf", "json"])
async def test_no_word_of_what_was_recorded_before_the_connection_is_lost(
    app: Any, connected: Any, utterances: Any, wire: str
) -> None:
    """The first seconds of a sentence come in one burst, the rest as it is said."""
    said = utterances[-1]
    recorded_bytes = min(5 * 32_000, int(len(said.pcm) * 0.6) // 2 * 2)
    async with connected(app.ws_url, microphone=True, wire=wire) as client:
        client.say(said.pcm[:recorded_bytes], at_once=True)
        await client.turn(client.say(said.pcm[recorded_bytes:]), deadline_s=120)
        finals = [
            message.data["text"] for message in client.messages if message.type == "user-transcription" and message.data["final"]
        ]
        assert heard_right(finals, said.text), finals
        # The first word and the last one are the ones that a gap would take.
        assert words(said.text.split()[0]) | words(said.text.split()[-1]) <= words(" ".join(finals)), finals


async def test_an_interrupted_bot_is_silent_at_once(app: Any, connected: Any, utterances: Any) -> None:
    async with connected(app.ws_url, microphone=True) as client:
        first = client.say(utterances[-1].pcm)
        started = await _bot_speaks(client, first.first_message)
        second = client.say(utterances[1].pcm)
        interrupted = await client.wait_type("bot-interrupted", 30, second.first_message)
        turn = await client.turn(second, deadline_s=120)
        at = client.messages.index(interrupted)
        types = [message.type for message in client.messages]
        assert types[at - 1] == "user-started-speaking", "the client hears of the new turn at the cancel"
        assert "bot-stopped-speaking" in types[at : at + 4]
        assert types.index("bot-started-speaking") == client.messages.index(started)
        again = types.index("bot-started-speaking", at)
        between = [pcm for pcm, at_ns in client.audio if interrupted.at_ns < at_ns < client.messages[again].at_ns]
        assert rms(b"".join(between)) <= AUDIBLE_RMS, "no sound of the old turn"
        assert heard_right(turn.transcripts[-1:], utterances[1].text), turn.transcripts
        assert turn.answer.strip()
        assert turn.errors == []
        # Every answer that began has ended, each once.
        for kind in ("llm", "tts"):
            assert types.count(f"bot-{kind}-started") == types.count(f"bot-{kind}-stopped") == 2


async def test_typed_text_interrupts_too(app: Any, connected: Any) -> None:
    async with connected(app.ws_url) as client:
        first = client.send_text("Tell me a long story about the sea.")
        await _bot_speaks(client, first.first_message)
        second = client.send_text("Stop. What is two and two?")
        interrupted = await client.wait_type("bot-interrupted", 30, second.first_message)
        again = client.messages.index(await _bot_speaks(client, client.messages.index(interrupted)))
        await client.wait_type("bot-stopped-speaking", start=again)
        assert client.heard(second).answer.strip()
        between = [pcm for pcm, at_ns in client.audio if interrupted.at_ns < at_ns < client.messages[again].at_ns]
        assert rms(b"".join(between)) <= AUDIBLE_RMS, "no sound of the old turn"


async def test_words_are_marked_as_they_are_spoken_and_no_further_than_the_interruption(app: Any, connected: Any) -> None:
    async with connected(app.ws_url) as client:
        first = client.send_text("Tell me a long story about the sea.")
        start = client.messages.index(await _bot_speaks(client, first.first_message))
        while sum(message.type == "bot-tts-text" for message in client.messages) < 5:
            await client.wait_type("bot-tts-text", start=len(client.messages))
        second = client.send_text("Stop. What is two and two?")
        interrupted = client.messages.index(await client.wait_type("bot-interrupted", 30, second.first_message))
        await client.wait_type("bot-stopped-speaking", start=interrupted + 3)
        outputs = [message for message in client.messages[start:interrupted] if message.type == "bot-output"]
        marked: dict[int, str] = {}
        for message in outputs:
            told = message.data["spoken_progress"]
            segment, before = message.data["segment_id"], marked.get(message.data["segment_id"], "")
            assert told["accumulated_text"] + told["remaining_text"] == message.data["text"]
            assert told["accumulated_text"].startswith(before)
            assert (message.data["spoken_status"] == "new") == (segment not in marked) == (told["accumulated_text"] == "")
            marked[segment] = told["accumulated_text"]
        one_by_one = [message for message in client.messages[start:interrupted] if message.type == "bot-tts-text"]
        assert " ".join(marked.values()).split() == [message.data["text"] for message in one_by_one]
        assert len(one_by_one) >= 5
        # As they are spoken, not in a heap at the end of the clause.
        assert one_by_one[-1].at_ns - one_by_one[0].at_ns > 500_000_000


async def test_two_sessions_do_not_mix(app: Any, connected: Any, utterances: Any) -> None:
    left, right = utterances[1], utterances[2]
    async with connected(app.ws_url, microphone=True) as one, connected(app.ws_url, microphone=True) as other:
        first, second = await asyncio.gather(
            one.turn(one.say(left.pcm), deadline_s=120), other.turn(other.say(right.pcm), deadline_s=120)
        )
        assert heard_right(first.transcripts, left.text), first.transcripts
        assert heard_right(second.transcripts, right.text), second.transcripts
        assert not heard_right(first.transcripts, right.text)
        assert not heard_right(second.transcripts, left.text)
        assert first.errors == second.errors == []
        assert rms(first.audio) > AUDIBLE_RMS
        assert rms(second.audio) > AUDIBLE_RMS


async def _bot_speaks(client: RtviClient, start: int) -> Received:
    return await client.wait_type("bot-started-speaking", 60, start)


def worked_ns(process: Any) -> dict[int, int]:
    """How long each thread of a process ran so far, without the main one and the named ones, which are Ray's."""
    ran = {}
    for thread in process.threads():
        folder = Path(f"/proc/{process.pid}/task/{thread.id}")
        with contextlib.suppress(FileNotFoundError):
            if thread.id != process.pid and (folder / "comm").read_text().startswith("ray::"):
                ran[thread.id] = int((folder / "schedstat").read_text().split()[0])
    return ran


WORK_NS = 50_000_000
"""What a thread that only looks after something does not come to in a turn."""
BUDGETS = {
    "SttEngine": Config().stt.threads,
    "LlmEngine": Config().llm.threads,
    "TtsEngine": Config().tts.threads,
    **dict.fromkeys(("SpeakingActor", "SttActor", "LlmActor", "TtsActor"), 1),
}


async def test_no_process_works_in_more_threads_than_it_is_configured_to(
    app: Any, connected: Any, utterances: Any, actors: Any
) -> None:
    async with connected(app.ws_url, microphone=True) as client:
        processes = {kind: actors(app, kind) for kind in BUDGETS}
        before: dict[int, dict[int, int]] = {}
        for process in (process for found in processes.values() for process in found):
            with contextlib.suppress(psutil.NoSuchProcess):
                before[process.pid] = worked_ns(process)
        await client.turn(client.say(utterances[-1].pcm), deadline_s=120)
        busiest: dict[str, int] = {}
        for kind, found in processes.items():
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):  # of a session that was over before
                    did = [ran - before.get(process.pid, {}).get(thread, 0) for thread, ran in worked_ns(process).items()]
                    # A pool of threads shares the work; what only looks after something does much less of it.
                    busiest[kind] = max(busiest.get(kind, 0), sum(ns > max(0.25 * sum(did), WORK_NS) for ns in did))
        assert busiest.keys() == BUDGETS.keys()
        assert {kind: threads for kind, threads in busiest.items() if threads > BUDGETS[kind]} == {}
