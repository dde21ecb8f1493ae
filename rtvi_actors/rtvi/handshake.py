"""client-ready and bot-ready: which version a client speaks, and what it is told.

Nobody is refused: a client of another version is warned by an error-response and then gets its bot-ready all the same, since
clients wait for that one without a time-out.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from rtvi_actors.rtvi.messages import Message, error_response

Version: TypeAlias = tuple[int, int, int]

PROTOCOL_VERSION = "2.2.0"
UNKNOWN: Version = (0, 0, 0)
LEGACY_MAJOR = 1
"""Clients of this major version are answered in their own version and get the older form of bot-output."""

_CONSEQUENCE = "Compatibility issues may occur."
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")
_SHOWN_CHARACTERS = 64


def ready(message: Message, about: dict[str, Any], capabilities: dict[str, bool]) -> tuple[list[Message], Version]:
    """Answer a client-ready.

    Args:
        message: it. Sent again, it is answered again.
        about: what the bot is: library, library_version.
        capabilities: what the bot can do, as in bot-ready; an absent one is unknown.

    Returns:
        What to send, in order, and the client's version, ``UNKNOWN`` when it gave none that can be read.
    """
    given = message.data.get("version") if isinstance(message.data, dict) else None
    client_version, warning = _read(given)
    spoken = str(given) if is_legacy(client_version) else PROTOCOL_VERSION
    replies = [error_response(warning, message.id)] if warning else []
    replies.append(Message("bot-ready", {"version": spoken, "about": about, "capabilities": capabilities}, message.id))
    return replies, client_version


def is_legacy(client_version: Version) -> bool:
    """Whether the client speaks 1.x. One of unknown version is taken for a new one."""
    return client_version[0] == LEGACY_MAJOR


def _read(given: object) -> tuple[Version, str]:
    """The version, and the warning that the client gets, "" for none."""
    if not isinstance(given, str) or not given:
        return UNKNOWN, f"Client version unknown. {_CONSEQUENCE}"
    found = _VERSION.fullmatch(given)
    if found is None:
        return UNKNOWN, f"Invalid client version format ({given[:_SHOWN_CHARACTERS]}). {_CONSEQUENCE}"
    version = (int(found[1]), int(found[2]), int(found[3]))
    if version[0] in (LEGACY_MAJOR, int(PROTOCOL_VERSION[0])):
        return version, ""
    return version, f"RTVI version {given} is not compatible with server protocol {PROTOCOL_VERSION}. {_CONSEQUENCE}"
