"""Pipecat's own JavaScript client, unmodified, in a real Chromium, against the real app with real models.

The microphone is a recording of human speech: once by Chromium's fake capture device, once by a WebAudio stream that the test plays
into when it wants, so that the second utterance interrupts the first answer.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

HERE = Path(__file__).parent
SPEECH = Path("/usr/share/pocketsphinx/test/data/librivox")
DEADLINE_S = 60.0

needs = pytest.mark.skipif(
    not (HERE / "dist/index.html").exists() or not SPEECH.exists(),
    reason="needs the built page and pocketsphinx-testdata: `make test` installs both where it may",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built page and the recordings on a port of the loopback."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(HERE / "dist", folder, dirs_exist_ok=True)
    for wav in SPEECH.glob("*.wav"):
        shutil.copy(wav, folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """No access log in the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, name="site", daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def open_page(site: str, launch: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the page in a fresh Chromium with the flags given."""

    def start(*flags: str) -> Any:
        page = launch("--use-fake-ui-for-media-stream", *flags).new_page()
        page.goto(site)
        page.wait_for_function("window.page !== undefined")
        return page

    return start


class Log:
    """What the client has reported so far."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def all(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self._page.evaluate("window.page.log")
        return events

    def names(self) -> list[str]:
        return [event["event"] for event in self.all()]

    def wait(self, what: str, accept: Callable[[dict[str, Any]], bool], start: int = 0) -> int:
        """Index of the first event from ``start`` that ``accept`` takes."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            for index, event in enumerate(self.all()[start:], start):
                if accept(event):
                    return index
            self._page.wait_for_timeout(50)
        raise AssertionError(f"no {what} within {DEADLINE_S:.0f} s; the client saw {self.names()}")

    def wait_event(self, name: str, start: int = 0) -> int:
        return self.wait(name, lambda event: event["event"] == name, start)

    def wait_transcript(self, start: int = 0) -> int:
        def final(event: dict[str, Any]) -> bool:
            return event["event"] == "userTranscript" and bool(event["data"]["final"])

        return self.wait("final transcript", final, start)


def ws_url(app_url: str) -> str:
    return app_url.replace("http", "ws", 1) + "/ws"


@needs
def test_a_second_utterance_interrupts_the_first_answer(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page()
    log = Log(page)
    page.evaluate("([url, options]) => window.page.connect(url, options)", [ws_url(app_url), {"webAudio": True}])
    ready = log.all()[log.wait_event("botReady")]
    assert ready["data"]["version"].split(".")[0] == "2"

    page.evaluate("url => window.page.speak(url)", "sense_and_sensibility_01_austen_64kb-0870.wav")
    first = log.wait_transcript()
    assert "leisure" in log.all()[first]["data"]["text"].lower()
    speaking = log.wait_event("botStartedSpeaking", first)
    page.evaluate("url => window.page.speak(url)", "sense_and_sensibility_01_austen_64kb-0880.wav")
    second_started = log.wait_event("userStartedSpeaking", speaking)
    stopped = log.wait_event("botStoppedSpeaking", speaking)
    second = log.wait_transcript(second_started)
    second_answer = log.wait_event("botStartedSpeaking", second)
    log.wait_event("botStoppedSpeaking", second_answer)

    names = log.names()
    assert second_started < stopped < second < second_answer, names
    assert "botHeard" in names[speaking:], "nothing was audible at the loudspeaker"
    assert log.all()[first]["data"]["text"] != log.all()[second]["data"]["text"]
    order = [name for name in names if name in {"userStartedSpeaking", "userStoppedSpeaking"}]
    assert order[:4] == ["userStartedSpeaking", "userStoppedSpeaking"] * 2
    assert "error" not in names

    page.evaluate("() => window.page.disconnect()")
    log.wait_event("disconnected")


@needs
def test_chromiums_own_fake_microphone(app_url: str, open_page: Callable[..., Any]) -> None:
    recording = SPEECH / "sense_and_sensibility_01_austen_64kb-0870.wav"
    page = open_page("--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop")
    log = Log(page)
    page.evaluate("([url, options]) => window.page.connect(url, options)", [ws_url(app_url), {"webAudio": False}])
    log.wait_event("botReady")
    transcript = log.wait_transcript()
    assert len(log.all()[transcript]["data"]["text"].split()) >= 3
    answer = log.wait_event("botStartedSpeaking", transcript)
    log.wait_event("botHeard", answer)
    names = log.names()
    assert names.index("userStartedSpeaking") < transcript < answer
    assert "botLlmText" in names[transcript:]


@needs
def test_typed_text_is_answered_aloud(app_url: str, open_page: Callable[..., Any]) -> None:
    page = open_page()
    log = Log(page)
    page.evaluate("([url, options]) => window.page.connect(url, options)", [ws_url(app_url), {"webAudio": True}])
    log.wait_event("botReady")
    page.evaluate("() => window.page.sendText('What is the capital of France?')")
    answer = log.wait_event("botStartedSpeaking")
    log.wait_event("botHeard", answer)
    log.wait_event("botStoppedSpeaking", answer)
    said = "".join(event["data"]["text"] for event in log.all() if event["event"] == "botLlmText")
    assert "paris" in said.lower()
