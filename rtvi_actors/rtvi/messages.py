"""The envelope of RTVI and the requests in it: what a client may send, and how each mistake is answered."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

LABEL = "rtvi-ai"

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = re.compile(r"[^\[\]{}]+")
_ONE_BRACKET = str.maketrans("{}", "[]")
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.", re.DOTALL)
_LONE_SURROGATE_LENGTH = 6

_TRUE = (True, 1, "true")
_FALSE = (False, 0, "false")


@dataclass(frozen=True, slots=True)
class Message:
    """One RTVI message. ``id`` only on replies and on what clients send; ``data`` is JSON."""

    type: str
    data: Any | None = None
    id: str | None = None


class EnvelopeError(Exception):
    """A client's message that is no RTVI message. ``reply``: what to answer; None to stay silent."""

    def __init__(self, reply: Message | None) -> None:
        super().__init__(reply)
        self.reply = reply


class RequestError(Exception):
    """A request that is refused. ``reply``: the error-response."""

    def __init__(self, reply: Message) -> None:
        super().__init__(reply)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class ClientReady:
    """client-ready: give its message to ``handshake.ready``."""


@dataclass(frozen=True, slots=True)
class DisconnectBot:
    """disconnect-bot: say what is queued, then close."""


@dataclass(frozen=True, slots=True)
class SendText:
    """send-text. Without ``run_immediately`` it is only remembered; without ``audio_response`` the answer is only text."""

    content: str
    run_immediately: bool
    audio_response: bool


@dataclass(frozen=True, slots=True)
class RawAudio:
    """raw-audio, raw-audio-batch: a piece of the user's audio, PCM16 LE, as the sender labelled it. Not checked yet."""

    pcm: bytes
    rate_hz: int
    channels: int


@dataclass(frozen=True, slots=True)
class ClientCustom:
    """client-message: the application's own ``t`` and ``d``."""

    t: str
    d: Any


Request: TypeAlias = ClientReady | DisconnectBot | SendText | RawAudio | ClientCustom


def to_json(message: Message) -> str:
    """The JSON text of ``message``. Members that are None are left out; what is inside ``data`` stays as it is."""
    envelope: dict[str, Any] = {"label": LABEL, "type": message.type}
    if message.data is not None:
        envelope["data"] = message.data
    if message.id is not None:
        envelope["id"] = message.id
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False)


def error(text: str, *, fatal: bool = False) -> Message:
    """An ``error`` event. The text is in ``message`` too: JavaScript clients up to 1.13.0 read that one."""
    return Message("error", {"error": text, "message": text, "fatal": fatal})


def error_response(text: str, request_id: str | None) -> Message:
    """The refusal of the request ``request_id``."""
    return Message("error-response", {"error": text}, request_id)


def parse(text: str | bytes, *, max_depth: int) -> Message:
    """Read a client's message. ``max_depth``: how deep its JSON may nest, the envelope included.

    Raises:
        EnvelopeError: it is no JSON, too deep, no object, has not our label (no reply then), or an id, type or data of
            the wrong type.
    """
    envelope = _decode(text, max_depth)
    if not isinstance(envelope, dict) or envelope.get("label") != LABEL:
        raise EnvelopeError(None)
    kind, request_id, data = envelope.get("type"), envelope.get("id"), envelope.get("data")
    if not isinstance(kind, str):
        raise EnvelopeError(error("Invalid message: type must be a string"))
    if not isinstance(request_id, str):
        raise EnvelopeError(error("Invalid message: id must be a string"))
    if data is not None and not isinstance(data, dict):
        raise EnvelopeError(error("Invalid message: data must be an object"))
    return Message(kind, data, request_id)


def request_of(message: Message) -> Request:
    """What the client wants.

    Raises:
        RequestError: a type that is unknown or only sent by servers, or data that is wrong for it.
    """
    read = _REQUESTS.get(message.type)
    if read is None:
        raise RequestError(error_response(f"Unsupported type {message.type[:64]}", message.id))
    try:
        return read(message.data or {})
    except ValueError as problem:
        raise RequestError(error_response(f"Invalid message: {problem}", message.id)) from None


def read_json(text: str | bytes, max_depth: int) -> Any:
    """What a stranger's JSON says. Numbers that are none become None, halves of surrogate pairs U+FFFD: all of it can be sent on.

    Raises:
        ValueError: it is no JSON, or nests deeper than ``max_depth``.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(_without_lone_surrogates(text), parse_float=_finite, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("JSON nests too deep") from None
    except ValueError:
        raise ValueError("not valid JSON") from None
    if _deeper_than(max_depth, text):
        raise ValueError("JSON nests too deep")
    return value


def _decode(text: str | bytes, max_depth: int) -> Any:
    try:
        return read_json(text, max_depth)
    except ValueError as problem:
        raise EnvelopeError(error(f"Invalid message: {problem}")) from None


def _deeper_than(limit: int, text: str) -> bool:
    """Whether valid JSON nests deeper than ``limit``: take away the innermost brackets that often and see what is left."""
    if text.count("[") + text.count("{") <= limit:
        return False
    brackets = _NOT_BRACKETS.sub("", _STRING.sub("", text)).translate(_ONE_BRACKET)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace("[]", "")
    return bool(brackets)


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _no_number(name: str) -> None:
    """NaN and Infinity are no JSON, but some clients write them; we could not send them on."""


def _without_lone_surrogates(text: str) -> str:
    """Half a surrogate pair is valid JSON but no text: nothing behind us could encode it."""
    if "\\ud" not in text and "\\uD" not in text:
        return text
    return _ESCAPE.sub(lambda found: "\\ufffd" if _is_lone(found[0]) else found[0], text)


def _is_lone(escape: str) -> bool:
    return len(escape) == _LONE_SURROGATE_LENGTH


def _client_ready(data: dict[str, Any]) -> ClientReady:
    return ClientReady()


def _disconnect_bot(data: dict[str, Any]) -> DisconnectBot:
    return DisconnectBot()


def _send_text(data: dict[str, Any]) -> SendText:
    options = data.get("options")
    if options is None:
        options = {}
    if not isinstance(options, dict):
        raise ValueError("options must be an object")
    return SendText(_text(data, "content"), _flag(options, "run_immediately"), _flag(options, "audio_response"))


def _raw_audio(data: dict[str, Any]) -> RawAudio:
    return RawAudio(_pcm(data.get("base64Audio"), "base64Audio"), _integer(data, "sampleRate"), _integer(data, "numChannels"))


def _raw_audio_batch(data: dict[str, Any]) -> RawAudio:
    batch = data.get("base64AudioBatch")
    if not isinstance(batch, list):
        raise ValueError("base64AudioBatch must be an array")
    pcm = b"".join(_pcm(piece, "base64AudioBatch") for piece in batch)
    return RawAudio(pcm, _integer(data, "sampleRate"), _integer(data, "numChannels"))


def _pcm(value: Any, key: str) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string of base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{key} is not valid base64") from None


def _integer(data: dict[str, Any], key: str) -> int:
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} must be an integer")
    return value


def _client_message(data: dict[str, Any]) -> ClientCustom:
    return ClientCustom(_text(data, "t"), data.get("d"))


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value


def _flag(options: dict[str, Any], key: str) -> bool:
    """A boolean, true when absent or null. As in the reference, 0, 1 and the words "true" and "false" are booleans too."""
    value = options.get(key)
    if value is None:
        return True
    if isinstance(value, str):
        value = value.lower()
    if isinstance(value, str | int | float):
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
    raise ValueError(f"{key} must be a boolean")


_REQUESTS: dict[str, Callable[[dict[str, Any]], Request]] = {
    "client-ready": _client_ready,
    "disconnect-bot": _disconnect_bot,
    "send-text": _send_text,
    "raw-audio": _raw_audio,
    "raw-audio-batch": _raw_audio_batch,
    "client-message": _client_message,
}
