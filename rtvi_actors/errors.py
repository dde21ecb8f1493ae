"""Every error that rtvi_actors raises on purpose.

::

    RtviActorsError                 retryable, scope
    ├── ConfigError                 a configuration file, flag or bot that cannot be used      (cluster)
    │   └── PlacementError          what the nodes have no room for, in numbers
    ├── ModelMissingError           model files that are not prepared, or a missing package    (cluster)
    ├── ProtocolError               bytes that break a wire format                             (session)
    │   ├── FrameDecodeError        between actors
    │   ├── VersionError            a peer that speaks another version of the links
    │   └── AuthError               a peer or a client that may not enter
    ├── CapacityError               no room now; carries retry_after_ms                        (session, retryable)
    │   └── DrainingError           no room because this place is being emptied
    ├── EngineError                 a model could not answer one request                       (turn)
    │   ├── EngineTimeoutError      ... within its time                                        (turn, retryable)
    │   └── EngineLostError         ... because its process is gone                            (turn, retryable)
    └── SessionError                                                                           (session)
        ├── SessionClosedError      the session was used after its end
        └── SessionLostError        a process that the session needs is gone

``scope`` says how far the damage goes: ``"frame"``, ``"turn"``, ``"session"`` or ``"cluster"``. An error of scope ``turn``
reaches the client as an RTVI ``error`` with ``fatal: false`` and never ends the session. ``retryable`` says whether the same
call may succeed later without anybody changing anything.

All of them survive pickling, since Ray carries exceptions between processes that way: each class gives all its arguments to
``Exception.__init__``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Scope = Literal["frame", "turn", "session", "cluster"]


class RtviActorsError(Exception):
    """Base of all errors of this package. ``str(error)`` is one line that says what is wrong and what to do."""

    retryable: ClassVar[bool] = False
    scope: ClassVar[Scope] = "session"


class ConfigError(RtviActorsError):
    """A configuration that cannot be used: the text names the key, its value and what is allowed."""

    scope = "cluster"


class PlacementError(ConfigError):
    """What the nodes of the cluster have no room for: one text for each thing, with what it needs and what there is."""

    def __init__(self, shortfall: str, *more: str) -> None:
        super().__init__(shortfall, *more)
        self.shortfalls = (shortfall, *more)

    def __str__(self) -> str:
        return "; ".join(self.shortfalls)


class ModelMissingError(RtviActorsError):
    """Model files are not prepared, or the package that carries them is not installed: the text says what to run."""

    scope = "cluster"


class ProtocolError(RtviActorsError):
    """Bytes that break a wire format."""


class FrameDecodeError(ProtocolError):
    """Bytes on a link that are not a frame: malformed, too large, or a field of the wrong type. The link is closed."""

    scope = "frame"


class VersionError(ProtocolError):
    """The peer of a link speaks another version of the frames."""


class AuthError(ProtocolError):
    """A peer or a client that may not enter."""


class CapacityError(RtviActorsError):
    """There is no room for another session now. ``retry_after_ms`` says when asking again makes sense."""

    retryable = True

    def __init__(self, detail: str, retry_after_ms: int = 1_000) -> None:
        super().__init__(detail, retry_after_ms)
        self.detail = detail
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        return self.detail


class DrainingError(CapacityError):
    """No room because this node or version is being emptied."""


class EngineError(RtviActorsError):
    """A model could not answer one request."""

    scope = "turn"


class EngineTimeoutError(EngineError):
    """A model did not answer within the time that the configuration gives it."""

    retryable = True


class EngineLostError(EngineError):
    """The process of an engine is gone, with the requests it was working on."""

    retryable = True


class SessionError(RtviActorsError):
    """Something that concerns one session as a whole."""


class SessionClosedError(SessionError):
    """The session was used after its end."""


class SessionLostError(SessionError):
    """A process that the session needs is gone."""

    retryable = True
