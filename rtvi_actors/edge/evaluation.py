"""The client-messages of Pipecat's evaluation harness. They let a stranger rewrite the context: only with ``edge.eval_messages``.

=================  ==========================================================================================================
eval-connect       skip_tts: the bot is silent in this session. capture_bot_audio: the JSON wire carries the bot's audio too
eval-configure     vad_user_speaking, llm_markers: see :mod:`.reports`. function_call_report_level: there are no calls to report
eval-context       messages: the conversation up to now, instead of what it was. Nothing is run
eval-image         refused: the bot does not see
eval-cancel        the session ends at once
=================  ==========================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rtvi_actors.edge.conversation import Conversation
from rtvi_actors.frames.types import ClientMessage
from rtvi_actors.rtvi.messages import ClientCustom, RequestError, error_response
from rtvi_actors.runtime.port import StagePort

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles of a context's messages, and what the model is told instead."""
MAX_MESSAGES = 64


class Evaluation:
    """Obeys these messages for one session. ``on_cancel`` is called at eval-cancel."""

    def __init__(self, port: StagePort, conversation: Conversation, on_cancel: Callable[[], None]) -> None:
        self._port = port
        self._conversation = conversation
        self._on_cancel = on_cancel

    def take(self, request_id: str, custom: ClientCustom) -> bool:
        """Take a client-message. Says whether it was one of these; any other is the application's.

        Raises:
            RequestError: what it asks for is wrong, or cannot be done.
        """
        obey = {
            "eval-connect": self._connect,
            "eval-configure": self._configure,
            "eval-context": self._context,
            "eval-image": self._image,
            "eval-cancel": self._cancel,
        }.get(custom.t)
        if obey is None:
            return False
        try:
            obey(request_id, _object(custom.d, "d"))
        except ValueError as problem:
            raise RequestError(error_response(f"Invalid message: {problem}", request_id)) from None
        return True

    def _connect(self, request_id: str, data: dict[str, Any]) -> None:
        if _flag(data, "capture_bot_audio"):
            self._conversation.wire.carry_audio()
        if _flag(data, "skip_tts"):
            self._tell_bot(request_id, "eval-connect", {"skip_tts": True})

    def _configure(self, request_id: str, data: dict[str, Any]) -> None:
        reports = self._conversation.reports
        if "vad_user_speaking" in data:
            reports.voice_activity = _flag(data, "vad_user_speaking")
        if "llm_markers" in data:
            reports.markers = _flag(data, "llm_markers")

    def _context(self, request_id: str, data: dict[str, Any]) -> None:
        messages = data.get("messages")
        if not isinstance(messages, list) or len(messages) > MAX_MESSAGES:
            raise ValueError(f"messages must be an array of at most {MAX_MESSAGES}")
        self._tell_bot(request_id, "eval-context", {"messages": [_role_and_text(message) for message in messages]})

    def _image(self, request_id: str, data: dict[str, Any]) -> None:
        raise RequestError(error_response("eval-image: this bot takes no images", request_id))

    def _cancel(self, request_id: str, data: dict[str, Any]) -> None:
        self._on_cancel()

    def _tell_bot(self, request_id: str, kind: str, data: dict[str, Any]) -> None:
        self._port.send("llm", ClientMessage(id=request_id, type=kind, data=json.dumps(data).encode()))


def _object(value: Any, name: str) -> dict[str, Any]:
    """``value``, which may be absent."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    return value


def _flag(data: dict[str, Any], key: str) -> bool:
    """A switch, off when it is absent or null."""
    value = data.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key} must be a boolean")
    return bool(value)


def _role_and_text(message: Any) -> tuple[str, str]:
    """A message of a context: its content is a text, or an array of parts whose texts are joined."""
    message = _object(message, "a message")
    role = ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        raise ValueError(f"the role of a message must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return role, content
    if not isinstance(content, list):
        raise ValueError("the content of a message must be a string or an array")
    return role, " ".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    part = _object(part, "a part of a message")
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise ValueError("a part of a message must be a text")
    text: str = part["text"]
    return text
