import asyncio
from contextlib import aclosing

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import EngineError, SessionClosedError
from rtvi_actors.frames.types import Pause
from rtvi_actors.llm.engine import ChatMessage, LlmRequest
from rtvi_actors.stt.engine import SttRequest
from rtvi_actors.testing.fakes import FakeLlm, FakePort, FakeStt, FakeTts
from rtvi_actors.tts.engine import TtsRequest

pytestmark = pytest.mark.unit

LOUD = b"\x40\x1f" * 16_000


class Stt(FakeStt):
    delay_ms = 1
    script = ("one", "two")
    fail_on = "two"


class Llm(FakeLlm):
    first_ms = token_ms = 1
    answers = ("You said {text}", "One two three four")


class Tts(FakeTts):
    first_ms = piece_delay_ms = 1


def question(text: str, max_tokens: int = 20) -> LlmRequest:
    return LlmRequest(messages=[ChatMessage("system", "Be short."), ChatMessage("user", text)], max_tokens=max_tokens)


async def all_of(pieces):
    return [piece async for piece in pieces]


async def test_stt_tells_the_length_and_hears_no_silence():
    stt = FakeStt(Config())
    [piece] = await all_of(stt.stream("s1", SttRequest(pcm=LOUD * 3)))
    assert piece.text == "utterance of 3 s"
    assert piece.compute_ns > 0
    assert [piece.text for piece in await all_of(stt.stream("s1", SttRequest(pcm=bytes(3_200))))] == [""]


async def test_stt_follows_its_script_and_fails_where_it_shall():
    stt = Stt(Config())
    assert [piece.text for piece in await all_of(stt.stream("s1", SttRequest(pcm=LOUD, final=False)))] == ["one"]
    assert [piece.text for piece in await all_of(stt.stream("s1", SttRequest(pcm=LOUD)))] == ["one"]
    with pytest.raises(EngineError):
        await all_of(stt.stream("s1", SttRequest(pcm=LOUD)))
    assert [piece.text for piece in await all_of(stt.stream("s2", SttRequest(pcm=LOUD)))] == ["one"]


async def test_llm_streams_words_and_says_how_it_ended():
    llm = Llm(Config())
    first = await all_of(llm.stream("s1", question("hi")))
    assert "".join(piece.text for piece in first) == "You said hi"
    assert [piece.finish_reason for piece in first] == ["", "", "stop"]
    assert (first[-1].prompt_tokens, first[-1].completion_tokens) == (3, 3)
    second = await all_of(llm.stream("s1", question("hi", max_tokens=2)))
    assert [(piece.text, piece.finish_reason) for piece in second] == [("One", ""), (" two", "length")]
    assert llm.withdrawn == 0


async def test_an_answer_that_is_left_early_is_counted():
    llm = Llm(Config())
    async with aclosing(llm.stream("s1", question("hi"))) as pieces:
        await anext(pieces)
    assert llm.withdrawn == 1
    tts = Tts(Config())
    async with aclosing(tts.stream("s1", TtsRequest(text="A longer text."))) as pieces:
        await anext(pieces)
    assert tts.withdrawn == 1


async def test_tts_makes_a_tone_as_long_as_the_text():
    tts = Tts(Config())
    pieces = await all_of(tts.stream("s1", TtsRequest(text="x" * 10)))
    pcm = b"".join(piece.pcm for piece in pieces)
    assert len(pcm) == 600 * 24 * 2
    assert [len(piece.pcm) for piece in pieces] == [370 * 48, 230 * 48]
    assert pcm[:120] * 240 == pcm, "the tone has no jumps"
    assert await all_of(tts.stream("s1", TtsRequest(text=" "))) == []


async def test_port_runs_timers_in_order_by_hand():
    port, order = FakePort(), []
    port.call_later(20, lambda: order.append(("late", port.now_ms())))
    port.call_later(10, lambda: order.append(("early", port.now_ms())))
    port.call_later(15, lambda: order.append(("never", port.now_ms()))).cancel()
    await port.advance(15)
    assert order == [("early", 1_010)]
    await port.advance(5)
    assert order == [("early", 1_010), ("late", 1_020)]
    assert port.waiting_timers == 0


async def test_port_lets_bulk_wait_for_room_and_knows_its_roles():
    port = FakePort(roles={"edge"})
    await port.limit("text", 5)
    first, second = Pause(turn=1), Pause(turn=2)
    await port.send_credited("edge", "text", first, 4)
    waiting = port.spawn(port.send_credited("edge", "text", second, 4), "sends")
    await port.settle()
    assert port.frames("edge", Pause) == [first]
    await port.limit("text", 4)
    await waiting
    assert port.frames("edge") == [first, second]
    with pytest.raises(SessionClosedError):
        port.send("llm", first)


async def test_port_cancels_its_tasks_and_keeps_their_errors():
    port = FakePort()

    async def fail() -> None:
        raise EngineError("broken")

    port.spawn(fail(), "fails")
    endless = port.spawn(asyncio.Event().wait(), "waits")
    await port.settle()
    assert [str(error) for error in port.errors] == ["broken"]
    await port.close()
    assert endless.cancelled()
    assert port.running == 0
    port.send("edge", Pause(turn=1))
    assert port.sent == []


async def test_tts_tells_the_times_of_words_with_the_first_piece():
    pieces = await all_of(Tts(Config()).stream("s1", TtsRequest(text=" Oh no, not now. ")))
    per_character = 60 * 24
    words = [(0, 1), (2 * per_character, 3), (3 * per_character, 4), (6 * per_character, 7), (7 * per_character, 8)]
    assert pieces[0].marks[:5] == words
    assert len(pieces) > 1
    assert not any(piece.marks for piece in pieces[1:])

    class Mute(Tts):
        tells_words = False

    assert not any(piece.marks for piece in await all_of(Mute(Config()).stream("s1", TtsRequest(text="Oh no."))))
