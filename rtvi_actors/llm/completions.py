"""What an endpoint for OpenAI's chat completions sends: pieces of an answer, and refusals. Pure.

Nothing that an endpoint says is trusted: lengths are bounded, its words are cleaned of the key and of line breaks, and its
complaints about a key are not repeated at all.
"""

from __future__ import annotations

import email.utils
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from rtvi_actors.errors import EngineError

MAX_CHARS_PER_TOKEN = 32
"""An endpoint that heeds no ``max_tokens`` is cut off where no tokenizer can still be inside them."""
QUOTED_CHARS = 200
"""Of an endpoint's own words, at most so many are passed on."""


class TryLaterError(EngineError):
    """The endpoint could not answer now."""

    retryable = True


class Delta(Struct):
    """What is new in a choice."""

    content: str | None = None


class Choice(Struct):
    """One of the answers; we ask for one."""

    delta: Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class Usage(Struct):
    """Tokens of the request, told at its end by endpoints that count them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chunk(Struct):
    """The data of one event."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class Received:
    """What came of an answer."""

    def __init__(self, max_tokens: int) -> None:
        self._max_chars = max_tokens * MAX_CHARS_PER_TOKEN
        self._decoder = msgspec.json.Decoder(Chunk)
        self.chars = 0
        """Of text. While there is none, the request may be made again."""
        self.reason = ""
        """Why it ended, "" before: stop or length."""
        self.usage = Usage()
        self.cut_off = False
        """It is far too long: nothing more is read."""

    def take(self, event: bytes) -> str:
        """The text in the data of an event, which may be "".

        Raises:
            EngineError: it is no piece of an answer, or the endpoint withholds the answer.
            TryLaterError: the endpoint gave up.
        """
        try:
            chunk = self._decoder.decode(event)
        except msgspec.DecodeError:  # a ValidationError is one
            raise EngineError("the endpoint sent what is no piece of an answer") from None
        if chunk.error is not None:
            raise TryLaterError("the endpoint gave up in the middle of the answer")
        if chunk.usage is not None:
            self.usage = chunk.usage
        text = ""
        for choice in chunk.choices or ():
            if choice.index == 0 and not self.reason:
                text += (choice.delta.content if choice.delta is not None else None) or ""
                self._end(choice.finish_reason, self.chars + len(text))
        self.chars += len(text)
        if self.chars > self._max_chars and not self.reason:
            self.reason, self.cut_off = "length", True
        return text

    def _end(self, finish_reason: str | None, chars: int) -> None:
        if not finish_reason:
            return
        if finish_reason in ("content_filter", "length") and not chars:
            why = "its content filter withholds it" if finish_reason == "content_filter" else "max_tokens went into something else"
            raise EngineError(f"the endpoint gave no text: {why}")
        self.reason = "length" if finish_reason == "length" else "stop"


class Refusal(Exception):
    """The endpoint answered with an error. ``wait_s``: what it asks to wait, None if it does not say."""

    def __init__(self, status: int, text: str, wait_s: float | None) -> None:
        super().__init__(status, text, wait_s)
        self.status = status
        self.text = text
        self.wait_s = wait_s

    def wants_other_key_than(self, body: dict[str, Any]) -> str:
        """A key of ``body`` that the endpoint does not take and that can be asked for differently, or left out; "" if none."""
        if self.status in (400, 422):
            if "max_tokens" in body and "max_completion_tokens" in self.text:
                return "max_tokens"
            if "stream_options" in body and "stream_options" in self.text:
                return "stream_options"
        return ""

    def explained(self, model: str, key_variable: str, *, has_key: bool) -> EngineError:
        """What to do about it."""
        if self.status in (401, 403):
            # Without its own words: some repeat a part of the key.
            if has_key:
                return EngineError(f"the endpoint refuses the key ({self.status}): check the environment variable {key_variable}")
            where = f"the environment variable {key_variable}" if key_variable else "llm.api_key_env"
            return EngineError(f"the endpoint wants a key ({self.status}): set {where}")
        said = f": {self.text}" if self.text else ""
        if self.status == 404:
            return EngineError(f"the endpoint knows no model {model!r}, or llm.base_url is wrong (404){said}")
        if self.status == 429:
            wait = f" and asks to wait {self.wait_s:.0f} s" if self.wait_s else ""
            return TryLaterError(f"the endpoint has too many requests (429){wait}")
        if self.status >= 500:
            return TryLaterError(f"the endpoint failed ({self.status})")
        return EngineError(f"the endpoint refuses the request ({self.status}){said}")


def refusal(status: int, body: bytes, retry_after: str, now_s: float, key: str) -> Refusal:
    """What an answer with ``status`` says. ``now_s``: the time of day, for a Retry-After that is a date."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        said = ""  # a proxy's page
    return Refusal(status, cleaned(_words(said), key), _wait_s(retry_after.strip(), now_s))


def cleaned(text: str, key: str) -> str:
    """A stranger's ``text`` on one line, without ``key``, shortened."""
    if key:
        text = text.replace(key, "***")
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= QUOTED_CHARS else text[:QUOTED_CHARS] + "…"


def _words(said: Any) -> str:
    """The words of an error as OpenAI, or anybody else, shapes it."""
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and name in said:
            said = said[name]
    return said if isinstance(said, str) else ""


def _wait_s(value: str, now_s: float) -> float | None:
    """Retry-After: seconds, or a date. None if it is neither."""
    with suppress(ValueError):
        seconds = float(value)
        return seconds if 0 <= seconds < 1e6 else None
    with suppress(ValueError, TypeError, OverflowError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - now_s, 0.0)
    return None
