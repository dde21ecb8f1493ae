"""The Ray actors that hold models: SttEngine, LlmEngine, TtsEngine.

They are plain classes here; whoever starts them decorates them with ``ray.remote``. Ray calls only start, ask and stop them:
requests and answers travel on the links that stages dial.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.engines.serve import Backend, EngineServer
from rtvi_actors.errors import ConfigError, EngineLostError
from rtvi_actors.frames.types import Frame
from rtvi_actors.observe.figures import Figures
from rtvi_actors.runtime import process
from rtvi_actors.runtime.network import Network
from rtvi_actors.runtime.switchboard import Switchboard

log = logging.getLogger(__name__)

BACKENDS = {
    "stt": {"faster-whisper": "rtvi_actors.stt.faster_whisper:FasterWhisper"},
    "llm": {
        "ctranslate2": "rtvi_actors.llm.ctranslate2:CTranslate2Llm",
        "openai": "rtvi_actors.llm.openai:OpenAiLlm",
        "openvino": "rtvi_actors.llm.openvino:OpenVinoLlm",
        "transformers": "rtvi_actors.llm.transformers:TransformersLlm",
    },
    "tts": {"coqui": "rtvi_actors.tts.coqui:CoquiTts", "hibari": "rtvi_actors.tts.hibari:HibariTts"},
}
"""Kind -> short name of a backend -> its class."""


def backend_class(kind: str, backend: str) -> str:
    """``module:Class`` of a backend that is given by its short name or as ``module:Class`` already.

    Raises:
        ConfigError: neither; names what is allowed.
    """
    known = BACKENDS.get(kind)
    if known is None:
        raise ConfigError(f"engine kind = {kind!r}: allowed are {', '.join(BACKENDS)}")
    if backend in known:
        return known[backend]
    if ":" in backend:
        return backend
    raise ConfigError(f"{kind}.backend = {backend!r}: allowed are {', '.join(known)} or module:Class")


class EngineActor:
    """Holds one model of ``kind``. ``name`` is the actor's on the links, ``path`` its Unix socket.

    ``network``: its way to other nodes. ``backend``: a short name or ``module:Class``; ``config``: ``Config.to_dict()``.
    Everything happens in :meth:`start`, so that an error reaches whoever calls it as what it is.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        path: str,
        node: str,
        backend: str,
        config: dict[str, Any],
        network: Network | None = None,
    ) -> None:
        self._kind = kind
        self._name = name
        self._path = path
        self._node = node
        self._backend_name = backend
        self._config = config
        self._network = network
        self._stopped = asyncio.Event()
        self._server: EngineServer | None = None
        self._switchboard: Switchboard | None = None

    async def start(self) -> dict[str, Any]:
        """Load and warm up the model, then listen. Returns ``{pid, started_at, node, name, path, address, memory_bytes, load_ms}``.

        Raises:
            ConfigError: the backend or the configuration cannot be used.
            ModelMissingError: the model is not prepared.
        """
        config = Config.from_dict(self._config)
        process.set_up(self._name, config)
        spec = backend_class(self._kind, self._backend_name)
        process.limit_threads(getattr(config, self._kind).threads)
        began_ns = time.monotonic_ns()
        backend: Backend = await asyncio.to_thread(_load, spec, f"{self._kind}.backend", config)
        load_ms = (time.monotonic_ns() - began_ns) // 1_000_000
        switchboard = Switchboard(
            self._name,
            self._path,
            node=self._node,
            on_frame=self._on_frame,
            on_peer=self._on_peer,
            on_overflow=self._on_overflow,
            network=self._network,
        )
        self._server = EngineServer(self._kind, backend, switchboard)
        try:
            await switchboard.open()
        except BaseException:
            await self._server.close()
            raise
        self._switchboard = switchboard
        log.info("loaded %s in %d ms, listening on %s", spec, load_ms, self._path)
        return process.identity() | {
            "node": self._node,
            "name": self._name,
            "path": self._path,
            "address": switchboard.address,
            "memory_bytes": backend.memory_bytes,
            "load_ms": load_ms,
        }

    async def stats(self) -> dict[str, Any]:
        """Counters of the requests, the links' figures and how late the event loop runs."""
        if self._switchboard is None or self._server is None:
            raise EngineLostError(f"{self._name} is not started, or stopped")
        peers = {name: dataclasses.asdict(peer) for name, peer in self._switchboard.peers().items()}
        return {**self._server.stats(), "peers": peers, "loop_lag_ms": self._switchboard.loop_lag_ms}

    async def ping(self) -> Figures:
        """Answer, which only a process whose event loop runs can: with what is to be told of it."""
        links = {} if self._switchboard is None else self._switchboard.figures()
        return process.usage() | links | ({} if self._server is None else self._server.figures())

    async def run_until_stopped(self) -> None:
        """Returns at :meth:`stop`. Its reference fails within milliseconds when the process dies."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """Withdraw all requests, close the model and the links, and leave.

        The caller sees ``ActorDiedError`` (an intended exit) when it is done.
        """
        await self.shut_down()
        process.leave_actor()

    async def shut_down(self) -> None:
        """What :meth:`stop` does before the process ends."""
        if self._server is not None:
            await self._server.close()
        if self._switchboard is not None:
            await self._switchboard.close()
        self._server = self._switchboard = None
        self._stopped.set()

    def _on_frame(self, peer: str, frame: Frame) -> None:
        if self._server is not None:
            self._server.on_frame(peer, frame)

    def _on_peer(self, peer: str, up: bool, reason: str) -> None:
        if self._server is not None:
            self._server.on_peer(peer, up, reason)

    def _on_overflow(self, session: str, reason: str) -> None:
        if self._server is not None:
            self._server.on_overflow(session, reason)


class SttEngine(EngineActor):
    """A speech model."""


class LlmEngine(EngineActor):
    """A language model."""


class TtsEngine(EngineActor):
    """A voice."""


def _load(spec: str, key: str, config: Config) -> Backend:
    """Import, build, load and warm up: seconds of work, for a thread."""
    backend: Backend = process.load_class(spec, key)(config)
    backend.load()
    backend.warm_up()
    return backend
