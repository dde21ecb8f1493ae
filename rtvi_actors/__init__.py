"""Real-time voice on Ray: each session's stages in actors, model engines shared, RTVI to the clients.

The public names, imported when they are first used: a stage process must not load what it does not need. The map of the house is in
ARCHITECTURE.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtvi_actors.bot import Bot, Session, Turn, serve
    from rtvi_actors.config import Config
    from rtvi_actors.errors import (
        CapacityError,
        ConfigError,
        EngineError,
        ProtocolError,
        RtviActorsError,
        SessionError,
    )

__version__ = "0.1.0"

_WHERE = {
    "Bot": "bot",
    "CapacityError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "EngineError": "errors",
    "ProtocolError": "errors",
    "RtviActorsError": "errors",
    "Session": "bot",
    "SessionError": "errors",
    "Turn": "bot",
    "serve": "bot",
}

__all__ = [
    "Bot",
    "CapacityError",
    "Config",
    "ConfigError",
    "EngineError",
    "ProtocolError",
    "RtviActorsError",
    "Session",
    "SessionError",
    "Turn",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
