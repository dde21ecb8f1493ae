"""The log of a process: every line with the actor, the session and the turn, as key=value or as JSON, on stderr.

Modules log through the standard library, as do the packages that they use; structlog renders it. An application may use either:
``structlog.get_logger()`` comes out the same way.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import MutableMapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from rtvi_actors.observe.log_context import add_session

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

PACKAGE = "rtvi_actors"


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from others."""


def set_up(actor: str, level: str, form: str = "console") -> None:
    """Log to stderr from now on: this package from ``level`` on, all else from warnings on. Repeating it replaces it.

    ``form``: ``console`` or ``json``.
    """
    structlog = _structlog()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    logging.getLogger(PACKAGE).setLevel(level.upper())
    shared = _shared(structlog, actor)
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(allow=("session", "turn")), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _as_json if form == "json" else _as_text],
        )
    )
    root.addHandler(handler)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def listen_to(name: str) -> None:
    """Log the application's logger ``name`` like this package."""
    logging.getLogger(name).setLevel(logging.getLogger(PACKAGE).level)


def _shared(structlog: ModuleType, actor: str) -> list[Processor]:
    """What is done with every line before it is rendered."""

    def add_actor(_: Any, __: str, event: EventDict) -> EventDict:
        event["actor"] = actor
        return event

    return [
        structlog.contextvars.merge_contextvars,
        add_session,
        add_actor,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def _as_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _as_text(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """``time LEVEL text key=value ...``, and a traceback on lines of its own."""
    when, level, text = event.pop("timestamp"), event.pop("level").upper(), str(event.pop("event"))
    exception = event.pop("exception", "")
    first = ("actor", "session", "turn")
    keys = [key for key in first if key in event] + [key for key in event if key not in first]
    fields = " ".join(f"{key}={_quoted(event[key])}" for key in keys)
    line = f"{when} {level} {_one_line(text)} {fields}"
    return f"{line}\n{exception}" if exception else line


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else msgspec.json.encode(text).decode()


def _one_line(text: str) -> str:
    """What came from outside must not look like a line of its own."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _structlog() -> ModuleType:
    """Import structlog without rich, which it would take along for coloured tracebacks: 0.9 MiB in each process instead of 4.7."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return importlib.import_module("structlog")
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
