from __future__ import annotations

from typing import Any

import pytest

from rtvi_actors.rtvi.handshake import UNKNOWN, is_legacy, ready
from rtvi_actors.rtvi.messages import Message

pytestmark = pytest.mark.unit

ABOUT = {"library": "rtvi_actors", "library_version": "1"}
CAPABILITIES = {"audio_in": True}


def answer(data: Any) -> tuple[list[Message], tuple[int, int, int]]:
    return ready(Message("client-ready", data, "9"), ABOUT, CAPABILITIES)


def bot_ready(version: str) -> Message:
    return Message("bot-ready", {"version": version, "about": ABOUT, "capabilities": CAPABILITIES}, "9")


@pytest.mark.parametrize(
    ("version", "told", "read"),
    [("2.1.0", "2.2.0", (2, 1, 0)), ("2.9.9", "2.2.0", (2, 9, 9)), ("1.2.0", "1.2.0", (1, 2, 0)), ("1.0.0", "1.0.0", (1, 0, 0))],
)
def test_a_version_that_fits(version: str, told: str, read: tuple[int, int, int]) -> None:
    assert answer({"version": version, "about": 3}) == ([bot_ready(told)], read)


@pytest.mark.parametrize(("version", "read"), [("0.3.0", (0, 3, 0)), ("3.0.0", (3, 0, 0)), ("20.0.0", (20, 0, 0))])
def test_another_major_version_is_warned_and_served(version: str, read: tuple[int, int, int]) -> None:
    text = f"RTVI version {version} is not compatible with server protocol 2.2.0. Compatibility issues may occur."
    assert answer({"version": version}) == ([Message("error-response", {"error": text}, "9"), bot_ready("2.2.0")], read)


@pytest.mark.parametrize(
    "version", ["2", "2.1", "2.1.0.0", "2.1.x", "v2.1.0", "2.-1.0", " 2.1.0", "2.1.0\n", "²1.0.0", "9" * 5_000]
)
def test_no_three_integers(version: str) -> None:
    messages, read = answer({"version": version})
    assert messages[0].data["error"].startswith(f"Invalid client version format ({version[:64]}). ")
    assert messages[1:] == [bot_ready("2.2.0")]
    assert read == UNKNOWN


@pytest.mark.parametrize("data", [None, {}, {"version": ""}, {"version": None}, {"version": 2}, {"version": ["2.1.0"]}])
def test_no_version(data: Any) -> None:
    messages, read = answer(data)
    assert [message.type for message in messages] == ["error-response", "bot-ready"]
    assert messages[0].data["error"].startswith("Client version unknown. ")
    assert messages[0].id == "9"
    assert read == UNKNOWN


def test_asking_again_is_answered_again() -> None:
    assert answer({"version": "2.1.0"}) == answer({"version": "2.1.0"})


def test_only_major_version_one_is_legacy() -> None:
    assert [is_legacy(version) for version in ((0, 0, 0), (0, 3, 0), (1, 2, 0), (2, 0, 0))] == [False, False, True, False]
