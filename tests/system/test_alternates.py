"""Conversations with Whisper base, a language model behind an endpoint, and hibari: over the real socket, with real weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.models.prepare import missing
from rtvi_actors.testing.recordings import AUDIBLE_RMS, rms

ALTERNATES = {
    "stt": {"model": "whisper-base", "language": "auto"},
    "tts": {"backend": "hibari", "model": "hibari-heart"},
}
SORRY = "Sorry, I have no answer right now."

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing(Config().replace(**ALTERNATES))), reason="run `rtvi-actors models prepare whisper-base`"),
]


@pytest.fixture(scope="module")
def app(start_app: Any, chat_endpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    lines = [
        *("[stt]", 'model = "whisper-base"', 'language = "auto"', "final_deadline_ms = 30_000"),
        *("[tts]", 'backend = "hibari"', 'model = "hibari-heart"'),
        *("[llm]", 'backend = "openai"', f'base_url = "{chat_endpoint.url}"', 'model = "smollm2"', 'api_key_env = "TEST_KEY"'),
        *(f'spoken_error = "{SORRY}"', "timeout_ms = 30_000", "max_tokens = 40"),
    ]
    file = tmp_path_factory.mktemp("config") / "alternates.toml"
    file.write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEY", chat_endpoint.KEY)
        with start_app(str(file)) as running:
            yield running


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


async def test_a_spoken_turn(app: Any, connected: Any, utterances: Any, chat_endpoint: Any) -> None:
    said = utterances[-1]
    async with connected(app.ws_url, microphone=True) as client:
        turn = await client.turn(client.say(said.pcm), deadline_s=120)
        assert len(turn.transcripts) == 1, "one turn, not cut"
        assert len(words(turn.transcripts[0]) & words(said.text)) >= 0.7 * len(words(said.text)), turn.transcripts
        assert turn.answer.strip()
        assert turn.errors == []
        assert rms(turn.audio) > AUDIBLE_RMS
        assert chat_endpoint.bodies[-1]["messages"][-1] == {"role": "user", "content": turn.transcripts[0]}
        assert chat_endpoint.bodies[-1]["max_tokens"] == 40


async def test_an_interruption_reaches_the_endpoint(app: Any, connected: Any, chat_endpoint: Any, eventually: Any) -> None:
    chat_endpoint.hold = True
    try:
        async with connected(app.ws_url) as client:
            client.send_text("Tell me a long story about the sea.")
            await eventually(lambda: chat_endpoint.running == 1)
            before = chat_endpoint.cancelled
            chat_endpoint.hold = False
            turn = await client.turn(client.send_text("Stop. What is the capital of France?"), deadline_s=120)
            await eventually(lambda: chat_endpoint.running == 0)
            assert chat_endpoint.cancelled == before + 1
            assert "Paris" in turn.answer
    finally:
        chat_endpoint.hold = False


async def test_an_endpoint_that_fails_is_spoken_of_and_the_session_goes_on(app: Any, connected: Any, chat_endpoint: Any) -> None:
    async with connected(app.ws_url) as client:
        chat_endpoint.broken = True
        try:
            turn = await client.turn(client.send_text("What is the capital of France?"), deadline_s=120)
        finally:
            chat_endpoint.broken = False
        assert turn.answer == SORRY
        assert [error for error in turn.errors if "the endpoint failed (500)" in error], turn.errors
        assert rms(turn.audio) > AUDIBLE_RMS
        again = await client.turn(client.send_text("And what is the capital of Italy?"), deadline_s=120)
        assert again.errors == []
        assert again.answer.strip()
        assert SORRY not in str(chat_endpoint.bodies[-1]["messages"])
    assert chat_endpoint.KEY not in app.log.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "Tell me of the sea. " * 500,
        "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \U0001f642\x00\x1b[31m \u202e" * 625,
    ],
    ids=["words", "Chinese, emoji and control characters"],
)
async def test_ten_thousand_characters(app: Any, connected: Any, text: str) -> None:
    """Answered or refused for that turn; the next one is answered."""
    async with connected(app.ws_url) as client:
        first = client.send_text(text)
        await client.wait(lambda received: received.type in ("bot-llm-stopped", "error"), 120, first.first_message)
        turn = await client.turn(client.send_text("What is the capital of France?"), deadline_s=120)
        assert turn.errors == []
        assert turn.answer.strip()
        assert rms(turn.audio) > AUDIBLE_RMS
