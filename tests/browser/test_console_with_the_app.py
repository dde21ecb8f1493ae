"""The console in a real Chromium against the real app and models: speak, read, hear, interrupt, type, see where the time went.

With ``RTVI_ACTORS_SCREENSHOT=FILE`` the interrupted conversation is also kept as a picture: the README shows one.
"""

from __future__ import annotations

import base64
import os
import shutil
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.edge import console

SPEECH = Path("/usr/share/pocketsphinx/test/data/librivox")
FIRST = SPEECH / "sense_and_sensibility_01_austen_64kb-0870.wav"
SECOND = SPEECH / "sense_and_sensibility_01_austen_64kb-0880.wav"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not (console.DIST / "index.html").exists(), reason="the console is not built: `make console` does it"),
    pytest.mark.skipif(not SPEECH.exists(), reason="needs pocketsphinx-testdata: `make test` installs it where it may"),
]

HERE = Path(__file__).parent
DEADLINE_S = 60.0
CONNECTING_S = 4
"""Of silence before the recording: it begins when the browser opens the microphone."""

# What the page showed, in order: every caption as it came to look, and who was shown to speak.
WATCH = """() => {
  window.shown = [];
  const note = () => {
    const seen = [...document.querySelectorAll('.line')].map(line => line.className + '|' + line.querySelector('.text').innerHTML);
    for (const who of ['user', 'bot']) seen.push(who + ' is ' + document.querySelector(`#speaker-${who} .state`).textContent);
    for (const what of seen) if (!window.shown.includes(what)) window.shown.push(what);
  };
  new MutationObserver(note).observe(document.querySelector('main'), { subtree: true, childList: true, characterData: true });
}"""


class Console:
    """The page, what it showed so far, and what it complained of."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.add_init_script(path=HERE / "loudspeaker.js")
        page.goto(url)
        page.evaluate(WATCH)

    def connect(self) -> None:
        self.page.get_by_role("button", name="Connect", exact=True).click()
        self.until("document.getElementById('transport').textContent === 'ready'")

    def until(self, expression: str) -> Any:
        """Wait until ``expression`` is true in the page, and return it."""
        deadline = time.monotonic() + DEADLINE_S
        while not (value := self.page.evaluate(expression)):
            assert time.monotonic() < deadline, f"not true within {DEADLINE_S:.0f} s: {expression}\nshown: {self.shown()}"
            self.page.wait_for_timeout(30)
        return value

    def shown(self) -> list[str]:
        return list(self.page.evaluate("shown"))

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))


@pytest.fixture
def open_console(app_url: str, launch: Callable[..., Any]) -> Callable[..., Console]:
    """``open_console(*flags, script=FILE, **options)``: the page in a browser with these flags; ``script`` runs before its own."""

    def start(*flags: str, script: Path | None = None, **options: Any) -> Console:
        page = launch("--use-fake-ui-for-media-stream", *flags).new_context(**options).new_page()
        if script is not None:
            page.add_init_script(path=script)
        return Console(page, app_url)

    return start


def test_speak_read_and_hear(open_console: Callable[..., Console], tmp_path: Path) -> None:
    recording = tmp_path / "microphone.wav"
    with wave.open(str(FIRST)) as speech, wave.open(str(recording), "wb") as padded:
        padded.setparams(speech.getparams())
        padded.writeframes(bytes(2 * CONNECTING_S * speech.getframerate()))
        padded.writeframes(speech.readframes(speech.getnframes()))
        padded.writeframes(bytes(2 * 60 * speech.getframerate()))
    page = open_console("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop")
    page.connect()
    page.until("/leisure/i.test(document.querySelector('.line.user:not(.interim)')?.textContent)")
    page.until("loudspeaker.level() > 0.005")
    page.until("document.querySelector('#speaker-bot .state').textContent === 'listening' && document.querySelector('.line.bot')")

    shown = page.shown()
    interims = [caption for caption in shown if caption.startswith("line user interim|")]
    assert interims, f"no interim caption: {shown}"
    assert page.count(".line.user.interim") == 0
    assert "user is speaking" in shown
    assert shown.index("user is speaking") < shown.index("bot is thinking") < shown.index("bot is speaking")
    marked = [caption for caption in shown if "<mark>" in caption]
    assert len(marked) >= 3, f"words were not marked one after the other: {marked}"
    assert page.count("mark") == 0
    assert page.count(".line.bot .ahead") == 0, "the whole answer was spoken, and not all of it is shown so"

    bar = page.page.get_by_role("img", name="Turn 1: endpointing")
    assert bar.is_visible()
    page.page.get_by_role("table", name="Engines").get_by_role("row", name="stt up").wait_for()
    page.page.get_by_role("table", name="Sessions").get_by_role("row", name="listening").or_(
        page.page.get_by_role("table", name="Sessions").get_by_role("row", name="silent")
    ).wait_for()
    page.page.get_by_role("button", name="Disconnect", exact=True).click()
    page.until("document.getElementById('transport').textContent === 'disconnected'")
    assert page.complaints == []


def test_interrupt(open_console: Callable[..., Console], tmp_path: Path) -> None:
    page = open_console(script=HERE / "microphone.js", viewport={"width": 1200, "height": 820})
    page.connect()
    say(page, FIRST)
    # Some words have been heard, and some have not.
    page.until("document.querySelector('.line.bot .heard') && document.querySelector('.line.bot .ahead')")
    say(page, SECOND)
    page.until("document.querySelector('.line.bot.interrupted')")
    assert page.text(".line.bot.interrupted .who") == "Bot (interrupted)"
    assert page.text(".line.bot.interrupted .heard").strip()
    assert page.text(".line.bot.interrupted del").strip()
    page.until("document.querySelectorAll('.line.user:not(.interim)').length === 2")
    page.until("document.querySelectorAll('.line.bot mark').length === 1 && document.querySelectorAll('.stack').length === 2")
    picture = tmp_path / "console.png"
    page.page.screenshot(path=picture)
    assert picture.stat().st_size < 200_000
    if keep := os.environ.get("RTVI_ACTORS_SCREENSHOT"):
        shutil.copy(picture, keep)
    order = page.page.eval_on_selector_all(".line", "all => all.map(line => line.className.split(' ')[1])")
    assert order == ["user", "bot", "user", "bot"]
    assert page.complaints == []


def test_type(open_console: Callable[..., Console]) -> None:
    page = open_console(script=HERE / "microphone.js")
    page.page.get_by_role("button", name="Microphone on").click()
    page.connect()
    page.page.fill("#text", "What is the capital of France?")
    page.page.keyboard.press("Enter")
    page.until("document.querySelector('.line.bot')?.textContent.toLowerCase().includes('paris')")
    page.until("loudspeaker.level() > 0.005")
    page.until("document.querySelector('#speaker-bot .state').textContent === 'listening'")
    assert page.text(".line.user .who") == "You (typed)"
    assert page.page.get_by_role("img", name="Turn 1: endpointing 0 ms").is_visible()
    assert page.complaints == []


def say(page: Console, recording: Path) -> None:
    page.page.evaluate("wav => microphone.say(wav)", base64.b64encode(recording.read_bytes()).decode())
