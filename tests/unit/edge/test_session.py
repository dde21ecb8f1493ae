"""One client's session: what it sends, what it is sent, and that its end leaves nothing, whoever brings it about."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from rtvi_actors.edge import session as session_module
from rtvi_actors.edge.wire import MessageIn, decode, encode_audio, encode_message
from rtvi_actors.frames.types import (
    Attach,
    Audio,
    BotState,
    Cancel,
    ClientMessage,
    ClientText,
    Detach,
    Error,
    Played,
    SessionEnd,
    Transcript,
    TurnEnded,
    TurnRequest,
    TurnStarted,
)

pytestmark = pytest.mark.unit

READY = {"version": "2.1.0", "about": {"library": "test"}}


async def ready(client: Any, until: Any) -> None:
    client.request("client-ready", READY, "hello")
    await until(lambda: "bot-ready" in client.types)


# -------------------------------------------------------------------------------------------------------------- begin


async def test_attach_reaches_all_stages_before_the_client_is_let_in(edge: Any) -> None:
    await edge.connect()
    for role in ("speaking", "stt", "llm", "tts"):
        (attach,) = edge.stages.got(role, Attach)
        assert (attach.session, attach.epoch, attach.bot) == ("s1", 1, "module:Bot")
        assert attach.route["tts"] == ["app/tts/0"]


async def test_client_ready_is_answered_and_the_bot_starts_after_it(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    client.request("client-ready", READY, "first")
    client.request("client-ready", READY, "second")
    await until(lambda: len(client.messages) == 2)
    assert [(message["type"], message["id"]) for message in client.messages] == [("bot-ready", "first"), ("bot-ready", "second")]
    assert client.messages[0]["data"]["capabilities"]["audio_in"] is True
    (told,) = edge.stages.got("llm", ClientMessage)
    assert (told.type, told.id, json.loads(told.data)) == ("client-ready", "first", READY)


# -------------------------------------------------------------------------------------------------------- the microphone


@pytest.mark.parametrize("json_wire", [False, True])
async def test_a_burst_of_buffered_audio_and_what_follows_lose_nothing(edge: Any, until: Any, json_wire: bool) -> None:
    _, client = await edge.connect(json_wire=json_wire)
    pcm = bytes(range(256)) * 690  # 5.5 s
    burst, piece = 5 * 32_000, 530
    for start in range(0, burst, piece):
        client.send_audio(pcm[start : start + piece])
    for start in range(-(-burst // piece) * piece, len(pcm), 1_280):
        client.send_audio(pcm[start : start + 1_280])
        await asyncio.sleep(0.01)
    whole = len(pcm) // 1_024
    await until(lambda: len(edge.stages.got("speaking", Audio)) == whole)
    windows = edge.stages.got("speaking", Audio)
    assert [window.first_sample for window in windows] == [512 * place for place in range(whole)]
    assert b"".join(window.pcm for window in windows) == pcm[: whole * 1_024]


@pytest.mark.parametrize("json_wire", [False, True])
async def test_other_rates_and_two_channels_become_16_khz_mono(edge: Any, until: Any, json_wire: bool) -> None:
    _, client = await edge.connect(json_wire=json_wire)
    for _ in range(50):
        client.send_audio(bytes(4 * 960), 48_000, 2)  # 20 ms
    await until(lambda: len(edge.stages.got("speaking", Audio)) >= 29)
    assert {len(window.pcm) for window in edge.stages.got("speaking", Audio)} == {1_024}


# --------------------------------------------------------------------------------------------------------------- bad input


def rtvi_text(**fields: Any) -> str:
    envelope = {"label": "rtvi-ai", "type": "send-text", "id": "x", "data": {"content": "hi"}} | fields
    return json.dumps({key: value for key, value in envelope.items() if value is not ...})


def rtvi(**fields: Any) -> bytes:
    return encode_message(rtvi_text(**fields))


BAD: list[tuple[str, bytes, str | None]] = [
    ("protobuf garbage", b"hello", "error"),
    ("an empty frame", b"", "error"),
    ("odd audio", encode_audio(b"123", 16_000), "error"),
    ("three channels", encode_audio(bytes(6), 16_000, 3), "error"),
    ("no channel", encode_audio(bytes(6), 16_000, 0), "error"),
    ("a rate too low", encode_audio(bytes(6), 7_999), "error"),
    ("a rate of 4 GHz", encode_audio(bytes(6), 4_000_000_000), "error"),
    ("a minute in one piece", encode_audio(bytes(500_000), 8_000), "error"),
    ("oversize", bytes(1_200_001), "error"),
    ("a transcription frame", b"\x1a\x00", None),
    ("no JSON", encode_message("{"), "error"),
    ("deep JSON", encode_message("[" * 5_000 + "]" * 5_000), "error"),
    ("JSON that is no object", encode_message("[1]"), None),
    ("another label", rtvi(label="other"), None),
    ("no id", rtvi(id=...), "error"),
    ("an id that is no string", rtvi(id=5), "error"),
    ("no type", rtvi(type=...), "error"),
    ("data that is no object", rtvi(data="text"), "error"),
    ("an unknown type", rtvi(type="nonsense"), "error-response"),
    ("a type of servers", rtvi(type="bot-ready"), "error-response"),
    ("wrong data", rtvi(data={"content": 5}), "error-response"),
    ("half a surrogate pair", rtvi(type="\ud800"), "error-response"),
]


def json_bad() -> list[tuple[str, bytes | str, str | None]]:
    """The same messages on the JSON wire, and what is wrong only there."""
    same = [(name, incoming.text, answer) for name, data, answer in BAD if isinstance(incoming := decode(data), MessageIn)]
    good = {"base64Audio": "AAAA", "sampleRate": 16_000, "numChannels": 1}
    audio: list[tuple[str, dict[str, Any] | None, str]] = [
        ("no base64", good | {"base64Audio": "???"}, "error-response"),
        ("base64 cut off", good | {"base64Audio": "AAA"}, "error-response"),
        ("base64 that is none of ASCII", good | {"base64Audio": "\u00e9\u00e9\u00e9\u00e9"}, "error-response"),
        ("audio that is a number", good | {"base64Audio": 5}, "error-response"),
        ("no audio", {"sampleRate": 16_000, "numChannels": 1}, "error-response"),
        ("no rate", {"base64Audio": "AAAA", "numChannels": 1}, "error-response"),
        ("a rate that is no integer", good | {"sampleRate": 16_000.5}, "error-response"),
        ("a rate that is a boolean", good | {"sampleRate": True}, "error-response"),
        ("audio without data", None, "error-response"),
        ("odd audio", good, "error"),
        ("a negative rate", good | {"sampleRate": -16_000}, "error"),
        ("a rate of a hundred digits", good | {"sampleRate": 10**100}, "error"),
        ("no channel", good | {"numChannels": 0}, "error"),
        ("a minute in one piece", good | {"base64Audio": "A" * 800_000, "sampleRate": 8_000}, "error"),
        ("a batch that is no array", {"base64AudioBatch": "AAAA", "sampleRate": 16_000, "numChannels": 1}, "error-response"),
    ]
    sent = [
        (name, json.dumps({"label": "rtvi-ai", "type": kind, "id": "x", "data": data}), answer)
        for name, data, answer in audio
        for kind in ["raw-audio-batch" if data and "base64AudioBatch" in data else "raw-audio"]
    ]
    more: list[tuple[str, bytes | str, str | None]] = [
        ("no text", "", "error"),
        ("oversize", "x" * 1_200_001, "error"),
        ("oversize in bytes only", json.dumps("\u00e9" * 700_000, ensure_ascii=False), "error"),
        ("20,000 arrays", rtvi_text(data={"x": 1}).replace("1", "[" * 20_000 + "]" * 20_000), "error"),
        ("500,000 open brackets", "[" * 500_000, "error"),
    ]
    return [*same, *sent, *more]


@pytest.mark.parametrize(
    ("data", "answer", "json_wire"),
    [
        *(pytest.param(data, answer, False, id=name) for name, data, answer in BAD),
        *(pytest.param(data, answer, True, id=f"json: {name}") for name, data, answer in json_bad()),
    ],
)
async def test_bad_input_is_answered_and_the_session_goes_on(
    edge: Any, until: Any, data: Any, answer: str | None, json_wire: bool
) -> None:
    _, client = await edge.connect(json_wire=json_wire)
    client.send(data)
    await ready(client, until)
    replies = client.messages[:-1]
    assert [message["type"] for message in replies] == ([answer] if answer else [])
    for message in replies:
        assert message["data"].get("fatal", False) is False
        assert ("id" in message) == (answer == "error-response")
    assert client.closed is None


async def test_one_report_of_each_kind_of_problem_per_second(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    for _ in range(20):
        client.send(b"garbage")
        client.send(encode_audio(b"123", 16_000))
    await ready(client, until)
    assert client.types == ["error", "error", "bot-ready"]


async def test_one_report_of_bad_audio_per_second_on_the_json_wire(edge: Any, until: Any) -> None:
    _, client = await edge.connect(json_wire=True)
    for _ in range(20):
        client.request("raw-audio", {"base64Audio": "???", "sampleRate": 16_000, "numChannels": 1})
        client.send_audio(b"123")
    await ready(client, until)
    assert client.types == ["error-response", "error", "bot-ready"]


@pytest.mark.parametrize("json_wire", [False, True])
async def test_the_first_frame_chooses_the_wire_and_the_other_kind_is_told_and_ignored(
    edge: Any, until: Any, json_wire: bool
) -> None:
    _, client = await edge.connect(json_wire=json_wire)
    client.request("client-ready", READY, "first")
    client.send(rtvi(type="client-ready", id="other") if json_wire else rtvi_text(type="client-ready", id="other"))
    client.request("client-ready", READY, "last")
    await until(lambda: client.types.count("bot-ready") == 2)
    assert [(message["type"], message.get("id")) for message in client.messages] == [
        ("bot-ready", "first"),
        ("error", None),
        ("bot-ready", "last"),
    ]
    assert client.messages[1]["data"]["fatal"] is False
    assert client.closed is None


async def test_a_flood_is_dropped_told_once_and_survived(make_edge: Any, until: Any) -> None:
    edge = make_edge(edge={"max_messages_per_s": 100})
    session, client = await edge.connect()
    for _ in range(600):
        client.send(b"\x1a\x00")
    await until(lambda: session.status()["dropped_messages"] >= 150)
    await until(lambda: client.types == ["error"])
    await asyncio.sleep(0.05)
    await ready(client, until)
    await edge.sessions.stop(1.0)
    await edge.over()


async def test_a_request_that_fails_inside_is_answered(edge: Any, until: Any, monkeypatch: Any) -> None:
    session, client = await edge.connect()

    def fail(typed: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(session._conversation, "typed", fail)
    client.request("send-text", {"content": "hi"}, "t1")
    await ready(client, until)
    assert client.messages[0] == {
        "label": "rtvi-ai",
        "type": "error-response",
        "id": "t1",
        "data": {"error": "Exception processing message: oops"},
    }


# ---------------------------------------------------------------------------------------------------------------- typed text


async def test_typed_text_goes_to_the_llm_and_asks_for_a_turn(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    client.request("send-text", {"content": "hi"}, "t1")
    client.request("send-text", {"content": "note", "options": {"run_immediately": False, "audio_response": False}}, "t2")
    await until(lambda: len(edge.stages.got("llm", ClientText)) == 2)
    first, second = edge.stages.got("llm", ClientText)
    assert (first.text, first.run, first.audio) == ("hi", True, True)
    assert (second.text, second.run, second.audio) == ("note", False, False)
    (request,) = edge.stages.got("speaking", TurnRequest)
    assert (request.request, request.source, request.interrupt) == (first.request, "text", True)
    assert first.request != second.request


async def test_a_burst_of_typed_texts_loses_none_without_a_word(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    for number in range(40):
        client.request("send-text", {"content": f"text {number}"}, f"t{number}")
    await until(lambda: len(client.messages) == 24)
    assert [message["id"] for message in client.messages] == [f"t{number}" for number in range(16, 40)]
    assert {message["type"] for message in client.messages} == {"error-response"}
    assert [text.text for text in edge.stages.got("llm", ClientText)] == [f"text {number}" for number in range(16)]
    assert len(edge.stages.got("speaking", TurnRequest)) == 16
    edge.stages.say("speaking", TurnStarted(turn=1, request="text-1", source="text"))
    client.request("send-text", {"content": "one more"}, "again")
    await until(lambda: len(edge.stages.got("llm", ClientText)) == 17)


# ------------------------------------------------------------------------------------------------------------------- turns


async def test_a_turn_is_told_in_order_paced_and_granted_back(edge: Any, until: Any) -> None:
    session, client = await edge.connect()
    await ready(client, until)
    edge.stages.user_says("hello")
    edge.stages.bot_answers("Good evening.", samples=4_800)
    await until(lambda: "bot-stopped-speaking" in client.types)

    told = client.types
    for earlier, later in [
        ("user-started-speaking", "user-stopped-speaking"),
        ("user-stopped-speaking", "user-transcription"),
        ("user-transcription", "user-llm-text"),
        ("user-llm-text", "bot-llm-started"),
        ("bot-llm-started", "bot-llm-text"),
        ("bot-llm-text", "bot-llm-stopped"),
        ("bot-tts-started", "bot-started-speaking"),
        ("bot-started-speaking", "bot-tts-stopped"),
        ("bot-tts-stopped", "bot-stopped-speaking"),
    ]:
        assert len(told) - 1 - told[::-1].index(later) > told.index(earlier), f"{earlier} before {later}: {told}"
    order = client.order()
    assert order.index("bot-started-speaking") < order.index("audio") < order.index("metrics")

    assert client.audio[:9_600] == bytes([1]) * 9_600
    assert client.audio[9_600:] == bytes(len(client.audio) - 9_600)
    assert len(client.audio) % 256 == 0
    assert edge.stages.granted("tts", "bot_audio") == 9_600
    assert edge.stages.granted("llm", "text") == len("Good evening.")
    for role in ("speaking", "llm"):
        assert [state.state for state in edge.stages.got(role, BotState)] == ["thinking", "speaking", "silent"]
        (played,) = edge.stages.got(role, Played)
        assert (played.turn, played.clause, played.char, played.final) == (1, 0, len("Good evening."), True)
    (figures,) = session.status()["figures"]
    assert figures["turn"] == 1
    assert sum(figures["segments_ms"].values()) == pytest.approx(figures["total_ms"])
    assert session.status()["turns"] == 1
    assert not session.busy


async def test_a_cancel_stops_the_sound_and_grants_back_what_was_not_sent(edge: Any, until: Any) -> None:
    session, client = await edge.connect()
    await ready(client, until)
    edge.stages.user_says("hello")
    edge.stages.bot_answers("A long answer that goes on.", samples=48_000)
    await until(lambda: client.audio)
    assert session.busy
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech", under_bot=True))
    edge.stages.say("speaking", Cancel(turn=2, fence=2, reason="speech"))
    sent = len(client.audio)
    await until(lambda: "bot-stopped-speaking" in client.types)
    await until(lambda: edge.stages.granted("tts", "bot_audio") >= 96_000)  # so nothing of it is left to send
    assert len(client.audio) == sent < 96_000
    assert edge.stages.granted("tts", "bot_audio") == 96_000
    (played,) = edge.stages.got("speaking", Played)
    assert played.turn == 1
    assert 0 < played.char < len("A long answer that goes on.")
    assert client.types[-4:] == ["user-started-speaking", "bot-interrupted", "bot-tts-stopped", "bot-stopped-speaking"]


async def test_a_cancel_takes_back_audio_that_a_slow_client_has_not_read(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    await ready(client, until)
    client.reading.clear()
    edge.stages.user_says("hello")
    edge.stages.bot_answers("Yes.", samples=24_000)
    await until(lambda: edge.stages.granted("tts", "bot_audio") > 9_600)
    edge.stages.say("speaking", TurnStarted(turn=2, request="", source="speech", under_bot=True))
    edge.stages.say("speaking", Cancel(turn=2, fence=2, reason="speech"))
    client.reading.set()
    await until(lambda: "bot-stopped-speaking" in client.types)
    assert client.audio == b""


async def test_an_error_of_a_turn_is_told_and_the_session_goes_on(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    edge.stages.say("tts", Error(turn=1, scope="turn", retryable=True, text="the voice failed"))
    await until(lambda: client.messages)
    assert client.messages[0]["type"] == "error"
    assert client.messages[0]["data"] == {"error": "the voice failed", "message": "the voice failed", "fatal": False}
    await ready(client, until)


async def test_frames_of_strangers_and_other_epochs_are_ignored(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    fatal = Error(session="s1", epoch=1, scope="session", retryable=False, text="no")
    edge.sessions.on_frame("app/speaking/9", fatal)
    edge.stages.say("speaking", fatal, epoch=2)
    await ready(client, until)
    assert client.types == ["bot-ready"]


# --------------------------------------------------------------------------------------------------------------------- end


async def test_a_client_that_leaves_gives_everything_back(edge: Any) -> None:
    _, client = await edge.connect()
    client.leave()
    await edge.over()
    for role in ("speaking", "stt", "llm", "tts"):
        assert len(edge.stages.got(role, Detach)) == 1
    assert edge.admission.released == [("s1", True)]
    assert edge.sessions.stats()["sessions"] == 0
    assert client.wire == []


async def test_disconnect_bot_while_silent_closes_at_once(edge: Any) -> None:
    _, client = await edge.connect()
    client.request("disconnect-bot", {})
    await edge.over()
    assert client.closed == (1000, "disconnect-bot")
    assert edge.admission.released == [("s1", True)]


async def test_disconnect_bot_lets_the_bot_finish_and_hears_no_more(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    edge.stages.user_says("bye")
    edge.stages.bot_answers("Good bye.", samples=4_800)
    await until(lambda: client.audio)
    client.request("disconnect-bot", None)
    client.send(encode_audio(bytes(4_096), 16_000))
    await edge.over()
    assert client.closed == (1000, "disconnect-bot")
    assert len(client.audio) >= 9_600
    assert client.types[-2:] == ["bot-stopped-speaking", "server-message"]
    assert client.messages[-1]["data"]["reason"] == "disconnect-bot"
    assert edge.stages.got("speaking", Audio) == []


async def test_disconnect_bot_behind_a_typed_text_waits_for_its_answer(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    client.request("send-text", {"content": "bye"}, "t1")
    client.request("disconnect-bot", None)
    client.request("send-text", {"content": "and"}, "t2")
    await until(lambda: client.messages)
    assert (client.messages[0]["type"], client.messages[0]["id"]) == ("error-response", "t2")
    assert len(edge.stages.got("llm", ClientText)) == 1
    edge.stages.say("speaking", TurnStarted(turn=1, request="text-1", source="text"))
    await asyncio.sleep(0.02)
    edge.stages.bot_answers("Good bye.", samples=4_800)
    await edge.over()
    assert len(client.audio) >= 9_600
    assert client.types.index("bot-stopped-speaking") < client.types.index("server-message") == len(client.types) - 1
    assert client.closed == (1000, "disconnect-bot")


async def test_disconnect_bot_behind_the_users_last_words_waits_for_the_answer(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    edge.stages.say("speaking", TurnStarted(turn=1, request="", source="speech"))
    edge.stages.say("speaking", TurnEnded(turn=1, attempt=1, last_sample=512))
    client.request("disconnect-bot", None)
    await asyncio.sleep(0.02)
    edge.stages.say("stt", Transcript(turn=1, attempt=1, text="Thanks.", final=True, language="en"))
    edge.stages.bot_answers("You are welcome.", samples=960)
    await edge.over()
    assert "bot-stopped-speaking" in client.types
    assert client.closed == (1000, "disconnect-bot")


async def test_disconnect_bot_does_not_wait_for_ever(make_edge: Any) -> None:
    edge = make_edge(session={"finish_ms": 20})
    _, client = await edge.connect()
    client.request("send-text", {"content": "bye"}, "t1")
    client.request("disconnect-bot", None)
    await edge.over()
    assert client.closed == (1000, "disconnect-bot")


@pytest.mark.parametrize("text", ["", "We close now. " + "ä" * 100])
async def test_the_bot_ends_the_session_when_its_last_turn_is_over(edge: Any, until: Any, text: str) -> None:
    _, client = await edge.connect()
    edge.stages.say("llm", SessionEnd(turn=1, reason=text))
    client.send(encode_audio(bytes(4_096), 16_000))
    # The stages commit a turn each for themselves, so it may come before the edge has heard of its turn.
    edge.stages.user_says("bye")
    edge.stages.bot_answers("Good bye.", samples=4_800)
    await edge.over()
    assert len(client.audio) >= 9_600
    assert edge.stages.got("speaking", Audio) == []
    told = text or "The bot has ended the session."
    assert client.types[-3:] == ["bot-stopped-speaking", "server-message", "error"]
    assert client.messages[-2]["data"] == {"type": "session-ended", "reason": "bot-ended", "text": told}
    assert client.messages[-1]["data"] == {"error": told, "message": told, "fatal": True}
    code, reason = client.closed or (0, "")
    assert code == 1000
    assert told.startswith(reason)
    assert 0 < len(reason.encode()) <= 123
    assert edge.admission.released == [("s1", True)]


# ------------------------------------------------------------------------------------------------------------ silence, length


async def test_a_silent_session_is_prompted_then_ended_and_told(make_edge: Any, until: Any) -> None:
    edge = make_edge(session={"idle_prompt": "Still there?", "idle_prompt_after_ms": 20, "idle_end_after_ms": 60})
    _, client = await edge.connect()
    await ready(client, until)
    await until(lambda: len(edge.stages.got("llm", ClientMessage)) == 2)
    prompt = edge.stages.got("llm", ClientMessage)[-1]
    assert (prompt.type, json.loads(prompt.data)) == ("idle-prompt", {"text": "Still there?"})
    edge.stages.say("speaking", TurnStarted(turn=1, request="say-1", source="say"))
    edge.stages.bot_answers("Still there?", samples=960)
    await edge.over()
    assert client.types[-3:] == ["bot-stopped-speaking", "server-message", "error"]
    assert client.messages[-2]["data"]["reason"] == "idle"
    assert client.messages[-1]["data"]["fatal"] is True
    assert client.closed == (1000, "Nobody said anything for 0.06 s.")
    assert edge.admission.released == [("s1", True)]


async def test_the_longest_session_is_told_before_its_end(make_edge: Any) -> None:
    edge = make_edge(session={"max_session_ms": 60, "warning_ms": 30})
    _, client = await edge.connect()
    await edge.over()
    assert client.types == ["server-message", "server-message", "error"]
    warning, end, error = (message["data"] for message in client.messages)
    assert (warning["type"], warning["reason"]) == ("session-ending", "max-session")
    assert 0 < warning["ends_in_ms"] <= 30
    assert (end["type"], end["reason"]) == ("session-ended", "max-session")
    assert error["fatal"] is True
    assert client.closed == (1000, "A session lasts 0.06 s at most.")


@pytest.mark.parametrize("role", ["speaking", "stt", "llm", "tts"])
async def test_a_lost_stage_is_fatal(edge: Any, until: Any, role: str) -> None:
    _, client = await edge.connect()
    edge.stages.die(role)
    await edge.over()
    assert [(message["type"], message["data"]["fatal"]) for message in client.messages] == [("error", True)]
    assert client.closed is not None
    assert client.closed[0] == 1011
    assert edge.admission.released == [("s1", False)]
    assert edge.lost == [(f"app/{role}/0", "connection closed")]
    others = {"speaking", "stt", "llm", "tts"} - {role}
    assert all(len(edge.stages.got(other, Detach)) == 1 for other in others)


async def test_a_stage_that_gives_the_session_up_is_fatal(edge: Any) -> None:
    _, client = await edge.connect()
    edge.stages.say("llm", Error(scope="session", retryable=True, text="lost the engine"))
    await edge.over()
    assert [message["data"]["error"] for message in client.messages] == ["lost the engine"]
    assert client.messages[0]["data"]["fatal"] is True
    assert edge.admission.released == [("s1", False)]


async def test_a_session_whose_frames_cannot_be_handled_fails_alone(edge: Any, until: Any, monkeypatch: Any) -> None:
    broken, first = await edge.connect()
    _, second = await edge.connect()

    def fail(frame: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(broken._conversation, "receive", fail)
    edge.stages.say("stt", Transcript(turn=1, attempt=1, text="x", final=False, language="en"), session="s1")
    await until(lambda: edge.admission.released)
    assert edge.admission.released == [("s1", False)]
    assert first.messages[0]["data"]["fatal"] is True
    await ready(second, until)


async def test_a_client_that_reads_too_slowly_is_cut_off_without_a_word(make_edge: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "FLUSH_DEADLINE_S", 30.0)
    edge = make_edge(edge={"send_buffer_bytes": 65_536})
    _, client = await edge.connect()
    client.reading.clear()
    for _ in range(1_000):
        client.request("nonsense")
    await edge.over()
    assert client.closed == (1008, "the client reads too slowly")
    assert client.wire == []
    assert edge.admission.released == [("s1", True)]


async def test_a_connection_that_breaks_while_sending_ends_the_session(edge: Any) -> None:
    _, client = await edge.connect()
    client.gone = True
    client.request("client-ready", READY)
    await edge.over()
    assert edge.admission.released == [("s1", True)]


async def test_a_stage_that_does_not_answer_detach_makes_the_end_unclean(edge: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(session_module, "DETACH_DEADLINE_MS", 50)
    _, client = await edge.connect()
    edge.stages.silent.add("stt")
    client.leave()
    await edge.over()
    assert edge.admission.released == [("s1", False)]


async def test_the_stop_of_the_edge_closes_all_clients(edge: Any) -> None:
    clients = [(await edge.connect())[1] for _ in range(3)]
    await edge.sessions.stop(2.0)
    assert [client.closed for client in clients] == [(1001, "the server is stopping")] * 3
    assert edge.admission.taken == set()


async def test_a_cancelled_handler_still_gives_the_place_back(edge: Any, until: Any) -> None:
    _, client = await edge.connect()
    await ready(client, until)
    edge.serving[0].cancel()
    await until(lambda: edge.admission.released == [("s1", True)])
    edge.serving.clear()


async def test_a_message_whose_handling_fails_ends_the_session(edge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a defect")

    session, client = await edge.connect()
    monkeypatch.setattr(session._intake.microphone, "push", fail)
    session.take(encode_audio(bytes(640), 16_000))
    await edge.over()
    assert session.failed
    assert "a defect" in client.closed[1]
