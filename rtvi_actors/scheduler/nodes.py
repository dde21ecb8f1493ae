"""The nodes of the app: which there are, what each has, how its processes are reached, and how they are ended.

The scheduler's own node needs no actor. On each other one a :class:`NodeActor` makes the folder for the sockets and ends processes:
a frozen one is killed by somebody on its own node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state as ray_state
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtvi_actors.config import Config
from rtvi_actors.runtime.devices import device_memory_bytes
from rtvi_actors.runtime.network import LinkKey, Network
from rtvi_actors.runtime.node_actor import NodeActor
from rtvi_actors.runtime.supervise import end_processes

log = logging.getLogger(__name__)

NUM_CPUS = 0.001
"""A small resource for each actor, so that Ray's placement is meant: an actor without any is placed at random."""
CALL_DEADLINE_S = 10.0
START_DEADLINE_S = 20.0
UNLIMITED_S = 3_600.0
"""How long a node may be drained for which Ray has set no time."""


@dataclass(slots=True)
class NodeFacts:
    """One node. ``id``: Ray's, in hex; ``host``: its address; ``folder``: of its sockets."""

    id: str
    host: str
    folder: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    device_memory_bytes: Sequence[int] = ()
    """Of each GPU that its driver knows."""
    agent: Any = None
    """Handle of its NodeActor; None on the scheduler's node."""
    pid: int = 0
    started_at: float = 0.0


def on_node(node: str) -> dict[str, Any]:
    """Ray's options for an actor that runs on ``node`` and nowhere else."""
    return {"num_cpus": NUM_CPUS, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False)}


def on_any_node(node: str) -> dict[str, Any]:
    """The same, also where Ray was told to count no cores: the head of a cluster that is to carry nothing."""
    return on_node(node) | {"num_cpus": 0}


class Nodes:
    """Those that are up and ready for actors.

    Attributes:
        here: id of the scheduler's node.
        several: whether there may be more.
    """

    def __init__(self, config: Config, namespace: str, folder: Path, *, several: bool) -> None:
        self.here = str(ray.get_runtime_context().get_node_id())
        self._config = config
        self._namespace = namespace
        self.several = several
        self._key = LinkKey.new()
        self._folders = {self.here: str(folder)}
        self._ready: dict[str, NodeFacts] = {}

    def __contains__(self, node: str) -> bool:
        return node in self._ready

    def facts(self) -> list[NodeFacts]:
        """All nodes."""
        return list(self._ready.values())

    async def look(self, on_gone: Callable[[str], None]) -> list[NodeFacts]:
        """See what Ray has now, tell ``on_gone`` the ids of nodes that are gone, and make joiners ready, which are returned.

        Nodes without cores by Ray's count get nothing: they are left out.
        """
        alive = {node["NodeID"]: node for node in await asyncio.to_thread(ray.nodes) if node["Alive"]}
        if not self.several:
            alive = {self.here: alive[self.here]}
        alive = {node: found for node, found in alive.items() if node == self.here or found["Resources"].get("CPU")}
        for node in [node for node in self._ready if node not in alive]:
            del self._ready[node]
            on_gone(node)
        new = [facts for node, facts in alive.items() if node not in self._ready]
        made = await asyncio.gather(*map(self._make_ready, new), return_exceptions=True)
        joined = []
        for node, facts in zip(new, made, strict=True):
            if isinstance(facts, BaseException):
                # It is looked at again: most likely it left as it came.
                log.warning("node %s (%s) cannot be used yet: %s", node["NodeID"][:8], node["NodeManagerAddress"], facts)
            else:
                self._ready[facts.id] = facts
                joined.append(facts)
        return joined

    async def _make_ready(self, node: dict[str, Any]) -> NodeFacts:
        facts = NodeFacts(node["NodeID"], node["NodeManagerAddress"], "", node["Resources"], node.get("Labels") or {})
        if facts.id == self.here:
            facts.folder = self._folders[facts.id]
            facts.device_memory_bytes = await asyncio.to_thread(device_memory_bytes)
        else:
            await self._start_agent(facts)
        return facts

    async def _start_agent(self, facts: NodeFacts) -> None:
        name = self._agent_name(facts.id)
        remote = ray.remote(NodeActor).options(name=name, namespace=self._namespace, max_restarts=0, **on_any_node(facts.id))
        facts.agent = remote.remote(name, self._folders.get(facts.id, ""), self._config.to_dict())
        try:
            told = await asyncio.wait_for(facts.agent.start.remote(), START_DEADLINE_S)
        except BaseException:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(facts.agent, no_restart=True)
            raise
        facts.pid, facts.started_at = told["pid"], told["started_at"]
        facts.folder = self._folders[facts.id] = told["folder"]
        facts.device_memory_bytes = told["device_memory_bytes"]

    def _agent_name(self, node: str) -> str:
        return f"{self._config.app.name}/node/{node[:8]}"

    async def check(self) -> None:
        """Start the actors of nodes again that are gone or do not answer."""
        await asyncio.gather(*(self._check(facts) for facts in self._ready.values() if facts.agent is not None))

    async def _check(self, facts: NodeFacts) -> None:
        try:
            await asyncio.wait_for(facts.agent.ping.remote(), CALL_DEADLINE_S)
            return
        except (TimeoutError, ray.exceptions.RayError) as error:
            log.error("%s does not answer (%s); starting it again", self._agent_name(facts.id), type(error).__name__)
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(facts.agent, no_restart=True)
        try:
            await self._start_agent(facts)
        except (TimeoutError, ValueError, ray.exceptions.RayError) as error:
            log.warning("%s does not start: %s", self._agent_name(facts.id), error)

    def host(self, node: str) -> str:
        """The address of ``node``.

        Raises:
            KeyError: there is no such node (any more).
        """
        return self._ready[node].host

    def folder(self, node: str) -> str:
        """The folder of ``node``'s sockets.

        Raises:
            KeyError: there is no such node (any more).
        """
        return self._ready[node].folder

    def network(self, node: str) -> Network | None:
        """What a process on ``node`` needs for links to other nodes; None where there is only one."""
        return Network(self._ready[node].host, self._key, self._config.cluster) if self.several else None

    async def end_processes(self, node: str, processes: dict[int, float], grace_s: float) -> None:
        """See ``supervise.end_processes``. On a node that is gone there is nothing left to end."""
        if node == self.here:
            await asyncio.to_thread(end_processes, processes, grace_s)
            return
        facts = self._ready.get(node)
        if facts is None or not processes:
            return
        try:
            await asyncio.wait_for(facts.agent.end_processes.remote(processes, grace_s), grace_s + CALL_DEADLINE_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            log.warning("processes %s on node %s were not ended: %s", sorted(processes), node[:8], type(error).__name__)

    async def draining(self) -> dict[str, float]:
        """Nodes that Ray is draining, for a spot machine that is taken away or an autoscaler that ends it -> seconds left."""
        if not self.several:
            return {}
        deadlines_ms = await asyncio.to_thread(ray_state.get_draining_nodes)
        now_ms = time.time() * 1_000
        # 0 stands for no deadline.
        return {
            node: max(0.0, (at_ms - now_ms) / 1_000) if at_ms else UNLIMITED_S
            for node, at_ms in deadlines_ms.items()
            if node in self._ready
        }

    async def ask_for(self, bundles: list[dict[str, float]]) -> None:
        """Ask Ray's autoscaler for nodes on which all of ``bundles`` fit; none takes it back. Without one, nobody hears it."""
        if self.several:
            log.info("asking the autoscaler for room: %s", bundles or "no more")
            await asyncio.to_thread(request_resources, bundles=bundles)

    async def stop(self) -> None:
        """End the actors of all nodes, with their folders."""
        agents = [facts.agent for facts in self._ready.values() if facts.agent is not None]
        calls = [asyncio.ensure_future(_answered(agent.stop.remote())) for agent in agents]
        if calls:
            await asyncio.wait(calls, timeout=CALL_DEADLINE_S)
        for agent in agents:
            with contextlib.suppress(ray.exceptions.RayError, ValueError):
                ray.kill(agent, no_restart=True)
        self._ready.clear()


async def _answered(reference: Any) -> None:
    """Wait for an actor that leaves when it was asked to."""
    with contextlib.suppress(ray.exceptions.RayError):
        await reference
