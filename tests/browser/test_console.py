"""The console in a real Chromium, with a bot that the test plays: what the page shows of what it is told, and what it sends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.edge import console

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not (console.DIST / "index.html").exists(), reason="the console is not built: `make console` does it"),
]

DEADLINE_S = 20.0
AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"
FAKE_MICROPHONE = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
NO_COMPLAINTS = (
    "Fatal error reported. Disconnecting...",
    "attempt to send to closed socket",
    "favicon.ico",
)
"""What the client library writes when a server ends a session; and the browser, of a page without icon."""
TURN = {
    "turn": 3,
    "total": 0.655,
    "own_share": 0.012,
    "segments": [
        {"name": "endpointing", "value": 0.3},
        {"name": "stt", "value": 0.1},
        {"name": "llm", "value": 0.055},
        {"name": "clause", "value": 0.05},
        {"name": "tts", "value": 0.148},
        {"name": "playout", "value": 0.002},
    ],
}


class Console:
    """The page, and all that it complained of."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)

    def _said(self, message: Any) -> None:
        if message.type == "error" and not any(known in f"{message.text} {message.location['url']}" for known in NO_COMPLAINTS):
            self.complaints.append(message.text)

    def connect(self) -> None:
        self.page.get_by_role("button", name="Connect", exact=True).click()
        self.has("#transport", "ready")

    def until(self, expression: str) -> None:
        """Wait until ``expression`` is true in the page. Playwright's own wait evaluates strings there, which the page forbids."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"not true within {DEADLINE_S:.0f} s: {expression}"
            self.page.wait_for_timeout(30)

    def has(self, selector: str, text: str) -> None:
        """Wait until an element has exactly this text, white space aside."""
        quoted = json.dumps([selector, text])
        self.until(
            f"(([selector, text]) => [...document.querySelectorAll(selector)].some(e => e.textContent.trim() === text))({quoted})"
        )

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(selector, "all => all.map(one => one.textContent)")
        return found

    def visible(self, selector: str) -> bool:
        return bool(self.page.is_visible(selector))

    def width(self) -> int:
        """How wide the page would have to be to show all of it."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))

    def axe(self) -> list[str]:
        """What axe finds wrong. Evaluated from outside, so the page's policy does not stop it."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run().then(result => result.violations)")
        return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found]


@pytest.fixture
def open_console(launch: Callable[..., Any], script: Any) -> Callable[..., Console]:
    """``open_console(*flags, **options of the browser's context)``."""

    def start(*flags: str, **options: Any) -> Console:
        return Console(launch(*(flags or FAKE_MICROPHONE)).new_context(**options).new_page(), script.url)

    return start


def segment(number: int, text: str, heard: str = "", status: str = "new") -> dict[str, Any]:
    progress = {"accumulated_text": heard, "remaining_text": text[len(heard) :]}
    return {
        "text": text,
        "aggregated_by": "sentence",
        "segment_id": number,
        "will_be_spoken": True,
        "spoken_status": status,
        "spoken_progress": progress,
    }


def test_connect_talk_and_leave(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    page = open_console()
    assert page.texts("#speaker-user .state") == ["not connected"]
    page.connect()
    assert script.types() == ["client-ready"]
    assert script.got[0]["data"]["about"]["library"] == "@pipecat-ai/client-js"
    wait_until(lambda: any(any(audio.pcm) for audio in script.heard), "sound from the microphone")
    assert {(audio.rate_hz, audio.channels) for audio in script.heard} == {(16_000, 1)}

    script.say("user-started-speaking")
    page.has("#speaker-user .state", "speaking")
    script.say("user-stopped-speaking")
    page.has("#speaker-user .state", "silent")
    script.say("bot-llm-started")
    page.has("#speaker-bot .state", "thinking")
    script.say("bot-started-speaking")
    page.has("#speaker-bot .state", "speaking")
    script.say("bot-stopped-speaking")
    page.has("#speaker-bot .state", "listening")

    page.page.get_by_role("button", name="Disconnect", exact=True).click()
    page.has("#transport", "disconnected")
    page.has("#speaker-user .state", "not connected")
    assert not page.visible("#banner"), "leaving is no failure"
    assert page.complaints == []


def test_an_interim_caption_is_replaced_by_the_final_one(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("user-transcription", {"text": "what is", "final": False, "timestamp": "", "user_id": ""})
    page.has(".line.interim .text", "what is")
    script.say("user-transcription", {"text": "what is the time", "final": False, "timestamp": "", "user_id": ""})
    page.has(".line.interim .text", "what is the time")
    assert page.texts("#announcer p") == [], "a screen reader is told of a text that still changes"
    script.say("user-transcription", {"text": "What is the time?", "final": True, "timestamp": "", "user_id": ""})
    page.has(".line:not(.interim) .text", "What is the time?")
    assert page.texts(".line .text") == ["What is the time?"]
    assert page.texts("#announcer p") == ["You: What is the time?"]


def test_words_are_marked_as_they_are_spoken(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("bot-llm-started")
    script.say("bot-started-speaking")
    script.say("bot-output", segment(1, "It is noon."))
    page.has(".bot .ahead", "It is noon.")
    assert page.texts(".bot mark") == []
    script.say("bot-output", segment(1, "It is noon.", "It", "in-progress"))
    page.has(".bot mark", "It")
    script.say("bot-output", segment(2, "Time to eat."))
    script.say("bot-output", segment(1, "It is noon.", "It is", "in-progress"))
    page.has(".bot mark", "is")
    assert page.texts(".bot .ahead") == [" noon.", "Time to eat."]
    assert page.texts("#announcer p") == []
    script.say("bot-output", segment(1, "It is noon.", "It is noon.", "completed"))
    script.say("bot-output", segment(2, "Time to eat.", "Time to eat.", "completed"))
    script.say("bot-stopped-speaking")
    page.has(".bot .text", "It is noon. Time to eat.")
    page.until("document.querySelectorAll('.bot mark, .bot .ahead').length === 0")
    assert page.texts(".line") == ["BotIt is noon. Time to eat."]
    assert page.texts("#announcer p") == ["Bot: It is noon.", "Bot: Time to eat."]


def test_what_was_not_heard_is_struck(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("bot-started-speaking")
    script.say("bot-output", segment(1, "One two three.", "One two", "in-progress"))
    page.has(".bot mark", "two")
    for message in ("user-started-speaking", "bot-interrupted", "bot-stopped-speaking"):
        script.say(message)
    page.has(".bot.interrupted del", "three.")
    assert page.texts(".bot .who") == ["Bot (interrupted)"]
    assert page.texts(".bot mark") == []
    page.has("#speaker-bot .state", "listening")
    # The next answer is a line of its own.
    script.say("user-transcription", {"text": "Stop.", "final": True, "timestamp": "", "user_id": ""})
    script.say("bot-llm-started")
    script.say("bot-started-speaking")
    script.say("bot-output", segment(2, "Very well.", "Very well.", "completed"))
    page.has(".bot:not(.interrupted) .text", "Very well.")
    assert page.texts(".line .text") == ["One two three.", "Stop.", "Very well."]


def test_text_without_sound_is_only_read(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("bot-output", {"text": "x = 1", "segment_id": 1, "will_be_spoken": False, "spoken_status": "new"})
    page.has(".bot .silent", "x = 1")
    assert page.texts("#announcer p") == ["Bot: x = 1"]


def test_the_bot_is_played_and_what_waits_is_discarded_at_an_interruption(script: Any, launch: Callable[..., Any]) -> None:
    page = Console(launch(*FAKE_MICROPHONE).new_page(), "about:blank")
    page.page.add_init_script(path=Path(__file__).with_name("loudspeaker.js"))
    page.page.goto(script.url)
    page.connect()
    assert page.page.evaluate("loudspeaker.level()") < 0.001
    script.sound(24_000 * 60)
    page.until("loudspeaker.level() > 0.1")
    assert page.page.evaluate("parseFloat(document.getElementById('speaker-bot').style.getPropertyValue('--level'))") > 0.5
    script.say("bot-interrupted")
    page.until("loudspeaker.level() < 0.001")
    script.sound(24_000)
    page.until("loudspeaker.level() > 0.1")


def test_typed_text_is_sent_and_shown(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    page = open_console()
    assert page.page.is_disabled("#text")
    page.connect()
    page.until("document.activeElement.id === 'text'")
    page.page.keyboard.type("  Hello <b>bot</b>  ")
    page.page.keyboard.press("Enter")
    wait_until(lambda: "send-text" in script.types(), "send-text")
    assert script.got[-1]["data"]["content"] == "Hello <b>bot</b>"
    page.has(".line.user .text", "Hello <b>bot</b>")
    assert page.texts(".line .who") == ["You (typed)"]
    assert page.page.input_value("#text") == ""
    page.page.keyboard.press("Enter")
    assert script.types().count("send-text") == 1


def test_the_latency_of_a_turn_as_bar_and_as_table(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("metrics", {"ttfb": [{"processor": "stt", "value": 0.1}]})
    script.say("metrics", {"turn_latency": [TURN]})
    page.has(".bars .figures", "Turn 3: 655 ms, own share 12 ms")
    bar = page.page.get_by_role("img", name="Turn 3: endpointing 300 ms, stt 100 ms")
    assert bar.bounding_box()["width"] > 100
    widths = bar.evaluate("bar => [...bar.children].map(part => part.getBoundingClientRect().width)")
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.1)
    assert sum(widths) == pytest.approx(bar.bounding_box()["width"], abs=8)
    page.page.get_by_role("button", name="Table").click()
    row = page.page.get_by_role("row", name="3 655 12 300 100 55 50 148 2")
    assert row.is_visible()
    page.page.get_by_role("button", name="Table").click()
    assert bar.is_visible()


def test_the_live_view_of_sessions_and_engines(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.page.get_by_role("table", name="Engines").get_by_role("row", name="stt up whisper-tiny.en 76 MiB").wait_for()
    script.own.append({"session": "s1", "bot": "speaking", "since": 0.0, "turns": 2, "figures": [{"total_ms": 612.3}]})
    script.facts = {**script.facts, "engines": []}
    page.page.get_by_role("table", name="Sessions").get_by_role("row", name="s1 speaking").get_by_text("612 ms").wait_for()
    page.page.get_by_role("row", name="stt starting").wait_for()


def test_nothing_is_asked_while_nobody_looks(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.page.clock.install()
    page.page.reload()
    page.page.get_by_role("table", name="Engines").wait_for()
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url))
    show = """hidden => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.page.clock.run_for(4_000)
    assert asked, "nothing was asked while somebody looked"
    page.page.evaluate(show, True)
    asked.clear()
    page.page.clock.run_for(60_000)
    assert asked == []
    with page.page.expect_request("**/api/status"):
        page.page.evaluate(show, False)


def test_a_bot_is_chosen(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.page.get_by_label("Bot:").select_option("shop")
    page.connect()
    assert script.wanted.bot == "apps:Shop"
    page.page.get_by_role("button", name="Disconnect", exact=True).click()
    page.has("#transport", "disconnected")
    page.page.get_by_label("Bot:").select_option("the app's own")
    page.connect()
    assert script.wanted.bot == ""


def test_what_goes_wrong_is_said(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    page.connect()
    script.say("error", {"error": "the language model did not answer", "fatal": False})
    page.has("#banner-text", "the language model did not answer")
    assert page.page.get_by_role("alert").is_visible()
    assert not page.visible("#banner-action")
    page.page.get_by_role("button", name="Dismiss").click()
    assert not page.visible("#banner")
    script.say("error-response", {"error": "Invalid message: too long"}, "x1")
    page.has("#banner-text", "Invalid message: too long")
    script.say("server-message", {"type": "session-ending", "reason": "max-session", "ends_in_ms": 60_000})
    page.has("#banner-text", "This session ends in 60 seconds.")
    assert page.texts("#transport") == ["ready"]


@pytest.mark.parametrize(
    ("messages", "code", "reason", "shown"),
    [
        ([], 1001, "the server is stopping", "the server is stopping"),
        ([], 1000, "", "The server has ended the session."),
        ([], 1011, "", "The connection to the server was lost."),
        ([("error", {"error": "stt is lost", "fatal": True})], 1011, "failed", "stt is lost"),
        (
            [
                ("server-message", {"type": "session-ended", "reason": "idle", "text": "nobody spoke for 5 minutes"}),
                ("error", {"error": "nobody spoke for 5 minutes", "fatal": True}),
            ],
            1000,
            "idle",
            "nobody spoke for 5 minutes",
        ),
    ],
)
def test_the_server_ends_the_session_and_the_user_comes_again(
    open_console: Callable[..., Console], script: Any, messages: list[Any], code: int, reason: str, shown: str
) -> None:
    page = open_console()
    page.connect()
    script.say("bot-started-speaking")
    script.say("bot-output", segment(1, "One two.", "One", "in-progress"))
    page.has(".bot mark", "One")
    for message in messages:
        script.say(*message)
    if not messages:
        script.close(code, reason)
    page.has("#banner-text", f"The session has ended: {shown}")
    page.has("#transport", "disconnected")
    page.has(".bot.interrupted del", "two.")
    assert page.page.is_disabled("#text")
    page.page.get_by_role("button", name="Reconnect").click()
    page.has("#transport", "ready")
    assert script.connections == 2
    assert not page.visible("#banner")


def test_no_place_is_free(open_console: Callable[..., Console], script: Any) -> None:
    script.refusal = "all places are in use"
    page = open_console()
    page.page.get_by_role("button", name="Connect", exact=True).click()
    page.until("document.getElementById('banner-text').textContent.includes('all places are in use')")
    page.has("#transport", "disconnected")
    script.refusal = ""
    page.page.get_by_role("button", name="Reconnect").click()
    page.has("#transport", "ready")


def test_a_refused_microphone_leaves_typing(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    page = open_console("--use-fake-device-for-media-stream", "--deny-permission-prompts")
    page.connect()
    page.until("document.getElementById('microphone-hint').textContent.includes('does not let this page use')")
    assert page.page.get_by_role("button", name="Microphone off").get_attribute("aria-pressed") == "false"
    page.has("#speaker-user .state", "microphone off")
    page.page.fill("#text", "hello")
    page.page.get_by_role("button", name="Send").click()
    wait_until(lambda: "send-text" in script.types(), "send-text")
    page.page.get_by_role("button", name="Disconnect", exact=True).click()
    page.has("#transport", "disconnected")
    assert script.heard == []


def test_muting_stops_the_microphone(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    page = open_console()
    page.connect()
    wait_until(lambda: script.heard, "microphone audio")
    page.page.get_by_role("button", name="Microphone on").click()
    page.has("#speaker-user .state", "microphone off")
    page.page.wait_for_timeout(100)
    before = len(script.heard)
    page.page.wait_for_timeout(100)
    assert len(script.heard) == before
    page.page.get_by_role("button", name="Microphone off").click()
    page.has("#speaker-user .state", "silent")
    wait_until(lambda: len(script.heard) > before + 5, "microphone audio")


def test_connected_without_a_microphone_it_can_be_turned_on_later(
    open_console: Callable[..., Console], script: Any, wait_until: Any
) -> None:
    page = open_console()
    page.page.get_by_role("button", name="Microphone on").click()
    page.connect()
    page.page.wait_for_timeout(100)
    assert script.heard == []
    page.page.get_by_role("button", name="Microphone off").click()
    wait_until(lambda: len(script.heard) > 5, "microphone audio")


def test_a_browser_that_does_not_resample_sends_its_own_rate(
    open_console: Callable[..., Console], script: Any, wait_until: Any
) -> None:
    page = open_console()
    page.page.evaluate(
        """() => {
          const create = AudioContext.prototype.createMediaStreamSource;
          AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 16000) throw new DOMException("other rate", "NotSupportedError");
            return create.call(this, stream);
          };
        }"""
    )
    page.connect()
    wait_until(lambda: script.heard, "microphone audio")
    assert {audio.rate_hz for audio in script.heard} == {page.page.evaluate("new AudioContext().sampleRate")}


def test_on_a_phone_nothing_is_cut_off(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    page = open_console(*FAKE_MICROPHONE, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    assert page.width() <= 360
    page.connect()
    fill(page, script)
    assert page.width() <= 360
    page.page.get_by_role("button", name="Table").click()
    script.close(1011, "no-white-space-" * 8)
    page.page.wait_for_selector("#banner:visible")
    assert page.width() <= 360
    for button in page.page.get_by_role("button").all():
        if button.is_visible():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["height"] >= 36


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: `make browser` installs it")
def test_axe_finds_nothing(open_console: Callable[..., Console], script: Any, scheme: str) -> None:
    page = open_console(*FAKE_MICROPHONE, color_scheme=scheme, reduced_motion="reduce")
    assert page.axe() == []
    page.connect()
    fill(page, script)
    assert page.axe() == []
    page.page.get_by_role("button", name="Table").click()
    script.close(1001, "the server is stopping")
    page.page.wait_for_selector("#banner:visible")
    assert page.axe() == []
    assert page.complaints == []


def fill(page: Console, script: Any) -> None:
    """Something of everything that the page can show."""
    script.own.append({"session": "s1", "bot": "speaking", "since": 0.0, "turns": 2, "figures": [{"total_ms": 612.3}]})
    script.say("user-transcription", {"text": "word" * 60, "final": True, "timestamp": "", "user_id": ""})
    script.say("bot-started-speaking")
    script.say("bot-output", segment(1, "One two three.", "One two", "in-progress"))
    script.say("bot-interrupted")
    script.say("bot-llm-started")
    script.say("bot-started-speaking")
    script.say("bot-output", segment(2, "Four five six.", "Four", "in-progress"))
    script.say("metrics", {"turn_latency": [TURN]})
    script.say("user-transcription", {"text": "and then", "final": False, "timestamp": "", "user_id": ""})
    page.has(".interim .text", "and then")
    page.page.get_by_role("row", name="s1 speaking").wait_for()


def test_all_is_reached_by_keyboard(open_console: Callable[..., Console], script: Any) -> None:
    page = open_console()
    reached = []
    for _ in range(12):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert [name for name in reached if name != "bot"][:4] == ["connect", "captions-box", "microphone", "latency-table"]
    page.page.focus("#connect")
    page.page.keyboard.press("Enter")
    page.has("#transport", "ready")
    outline = page.page.evaluate("getComputedStyle(document.getElementById('text')).outlineStyle")
    assert outline == "solid", "the focused element does not show it"


def test_a_user_who_leaves_while_connecting_is_gone(open_console: Callable[..., Console], script: Any, wait_until: Any) -> None:
    script.answers_ready = False
    page = open_console()
    page.page.get_by_role("button", name="Connect", exact=True).click()
    wait_until(lambda: "client-ready" in script.types(), "client-ready")
    page.page.get_by_role("button", name="Disconnect", exact=True).click()
    page.has("#transport", "disconnected")
    page.has("#connect", "Connect")


def test_without_its_build_the_page_tells_how(
    launch: Callable[..., Any], script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "DIST", tmp_path)
    page = Console(launch().new_page(), script.url)
    assert page.page.get_by_role("heading", name="The console is not built").is_visible()
    assert page.complaints == []
