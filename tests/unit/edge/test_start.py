"""POST /start: what is read of a request, what is refused, and where the client is sent."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.config import Edge
from rtvi_actors.edge.session import Wanted
from rtvi_actors.edge.start import parse, websocket_url

pytestmark = pytest.mark.unit

BOTS = {"shop": "apps:Shop", "clinic": "apps:Clinic"}


def asked(**request: Any) -> Wanted:
    return parse(json.dumps(request).encode(), BOTS, 32)


def body(wanted: Wanted) -> Any:
    return json.loads(wanted.body) if wanted.body else None


@pytest.mark.parametrize("data", [b"", b" \n", b"{}", b'{"body": null}', b'{"body": {}}', b'{"bot": null}'])
def test_no_wishes(data: bytes) -> None:
    assert parse(data, BOTS, 32) == Wanted()


def test_the_body_is_passed_on_and_a_bot_is_chosen_by_name() -> None:
    wanted = asked(transport="websocket", body={"user": "Zoë", "tags": [1, None]}, bot="clinic", other=1)
    assert wanted.bot == "apps:Clinic"
    assert body(wanted) == {"user": "Zoë", "tags": [1, None]}


def test_without_a_body_what_is_not_pipecats_is_the_bots() -> None:
    assert body(asked(user="Ada", createDailyRoom=False, enableDefaultIceServers=True, bot="shop")) == {"user": "Ada"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 40 + b"]" * 40, "JSON nests too deep"),
        (b"[1]", "must be a JSON object"),
        (b'"shop"', "must be a JSON object"),
        (b'{"body": [1]}', "body must be a JSON object"),
        (b'{"body": "text"}', "body must be a JSON object"),
        (b'{"transport": "webrtc"}', "transport 'webrtc' is not served here; there is: websocket"),
        (b'{"transport": 5}', "transport 5 is not served here"),
        (b'{"bot": "bakery"}', "there is no bot 'bakery'; there are: clinic, shop"),
        (b'{"bot": "os:system"}', "there is no bot 'os:system'"),
        (b'{"bot": "apps:Shop"}', "there is no bot 'apps:Shop'"),
        (b'{"bot": ["shop"]}', "there is no bot"),
        (b'{"bot": ""}', "there is no bot ''"),
    ],
)
def test_what_cannot_be_met_is_refused_with_a_reason(data: bytes, text: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - its whole text is compared
        parse(data, BOTS, 32)
    assert text in str(refusal.value)


def test_without_named_bots_none_can_be_chosen() -> None:
    with pytest.raises(ValueError, match="none to choose from"):
        parse(b'{"bot": "shop"}', {}, 32)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert parse(data, BOTS, 8).bot in ("", *BOTS.values())


@pytest.mark.parametrize(
    ("settings", "scheme", "headers", "url"),
    [
        ({}, "http", {"host": "localhost:7860"}, "ws://localhost:7860/ws"),
        ({}, "http", {"host": "[::1]:7860"}, "ws://[::1]:7860/ws"),
        ({}, "https", {"host": "voice.example.org"}, "wss://voice.example.org/ws"),
        # Anybody can send these.
        ({}, "http", {"host": "a", "x-forwarded-proto": "https", "x-forwarded-host": "evil.org"}, "ws://a/ws"),
        ({"trust_forwarded": True}, "http", {"host": "a", "x-forwarded-proto": "https"}, "wss://a/ws"),
        (
            {"trust_forwarded": True},
            "http",
            {"host": "a", "x-forwarded-proto": "https, http", "x-forwarded-host": "b:443, c"},
            "wss://b:443/ws",
        ),
        ({"public_url": "https://voice.example.org/bot/"}, "http", {"host": "evil.org"}, "wss://voice.example.org/bot/ws"),
        ({"public_url": "http://10.0.0.1:80"}, "https", {}, "ws://10.0.0.1:80/ws"),
    ],
)
def test_where_the_client_is_sent(settings: dict[str, Any], scheme: str, headers: dict[str, str], url: str) -> None:
    assert websocket_url(Edge(**settings), scheme, headers) == url


@pytest.mark.parametrize("host", ["", "a/b", "a b", "a\r\nb", "user@a", "a:port", "a?b", "[::1"])
def test_a_host_that_is_none(host: str) -> None:
    with pytest.raises(ValueError, match="host"):
        websocket_url(Edge(), "http", {"host": host})
