"""What ``rtvi-actors status`` prints of an app, out of what the scheduler knows.

Where the app has one node, nothing is said of nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Facts = dict[str, Any]

NODE_ID = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{48}\b")
"""Ray's name of a node: its first eight digits are shown."""


def overview(facts: Facts) -> Iterator[RenderableType]:
    """Capacity, sessions, nodes if there are several, engines, edges, processes, groups, and what is pending."""
    several = len(facts.get("nodes", [])) > 1
    yield from _head(facts)
    if facts["sessions"]:
        yield _sessions(facts["sessions"])
    if several:
        yield _nodes(facts)
    yield _actors(facts) if several else _actors_of_one_node(facts)
    if facts.get("figures"):
        yield _processes(facts["figures"])
    yield _groups(facts["groups"], several=several)
    yield from _pending(facts)


def reasons(facts: Facts) -> Iterator[RenderableType]:
    """A line for each engine, edge and group: where it is and why. Then what has no node, and why."""
    pending = facts.get("pending", {})
    for actor in [*facts["engines"], *facts["edges"]]:
        if actor["name"] not in pending:
            yield _line(f"{actor['why']}{'; it leaves' if actor['leaving'] else ''}")
    for group in facts["groups"]:
        yield _line(group["why"])
    yield from _pending(facts)


def _head(facts: Facts) -> Iterator[str]:
    capacity = facts["capacity"]
    yield f"{facts['app']}  {facts['url']}{'  draining' if facts['draining'] else ''}"
    yield (
        f"sessions {capacity['sessions']} of {capacity['max_sessions']}, free now {capacity['free']}, "
        f"granted {capacity['granted']}, refused {capacity['refused']}"
    )


def _sessions(sessions: list[Facts]) -> Table:
    table = _table("sessions", "session", "age", "group", "role", "actor id", "pid")
    for session in sessions:
        for number, (role, actor) in enumerate(session["actors"].items()):
            first = (session["session"], f"{session['age_s']} s", session["group"]) if number == 0 else ("", "", "")
            table.add_row(*first, role, actor.get("actor_id", ""), str(actor["pid"]))
    return table


def _nodes(facts: Facts) -> Table:
    table = _table("nodes", "node", "address", "CPUs", "memory", "GPUs", "sessions", "actors", "state")
    for node in facts["nodes"]:
        table.add_row(
            node["node"],
            node["address"],
            f"{node['cpus']:g}",
            f"{node['memory_bytes'] / 2**30:.1f} GiB",
            str(node["gpus"]),
            str(node["sessions"]),
            _by_kind(node["actors"], here=node["node"] == facts["node"]),
            "draining" if node["draining"] else "up",
        )
    return table


def _by_kind(names: list[str], *, here: bool) -> str:
    """``2 stt, 1 edge, 5 groups`` of names like ``app/engine/stt/0`` and ``group/3``. ``here``: the scheduler is there, too."""
    kinds = Counter(name.split("/")[-2] for name in names)
    groups = kinds.pop("group", 0)
    counted = [f"{count} {kind}" for kind, count in kinds.items()]
    if groups:
        counted.append(f"{groups} group{'s' if groups > 1 else ''}")
    return ", ".join([*(["scheduler"] if here else []), *counted])


def _actors_of_one_node(facts: Facts) -> Table:
    table = _table("engines and edges", "actor", "kind", "pid", "actor id")
    for actor in [*facts["engines"], *facts["edges"]]:
        table.add_row(actor["name"], actor["kind"], str(actor["pid"]), actor.get("actor_id", ""))
    return table


def _actors(facts: Facts) -> Table:
    table = _table("engines and edges", "actor", "kind", "sessions", "state", "node", "pid", "actor id")
    for actor in [*facts["engines"], *facts["edges"]]:
        pending = actor["name"] in facts["pending"]
        state = "pending" if pending else "leaving" if actor["leaving"] else actor["state"]
        # One without a node still has the facts of its last one.
        where = ("", "", "") if pending else (actor.get("node", ""), str(actor["pid"]), actor.get("actor_id", ""))
        table.add_row(actor["name"], actor["kind"], str(actor["sessions"]), state, *where)
    return table


def _processes(figures: dict[str, Facts]) -> Table:
    """What the processes of each role take, as they said within the last seconds."""
    table = _table("processes, by role", "role", "processes", "memory", "CPU time", "loop lag", "stalls", "requests")
    for role, of in sorted(figures.items()):
        requests = f"{of['engine_in_flight']:.0f} in flight" if "engine_in_flight" in of else ""
        table.add_row(
            role,
            f"{of.get('processes', 0):.0f}",
            f"{of.get('memory_bytes', 0) / 2**20:.0f} MiB",
            f"{of.get('cpu_s', 0):.1f} s",
            f"{1_000 * of.get('loop_lag_s', 0):.0f} ms",
            f"{of.get('stalls', 0):.0f}",
            requests,
        )
    return table


def _groups(groups: list[Facts], *, several: bool) -> RenderableType:
    if not several or not groups:
        told = ", ".join(f"{group['name']} {group['state']} ({group['sessions']})" for group in groups)
        return f"groups: {told or 'none'}"
    table = _table("groups", "group", "node", "sessions", "state")
    for group in groups:
        table.add_row(group["name"], group["node"], str(group["sessions"]), group["state"])
    return table


def _pending(facts: Facts) -> Iterator[Text]:
    for name, why in facts.get("pending", {}).items():
        yield _line(f"{name} is pending: {why.removeprefix(f'{name} ')}")


def _line(text: str) -> Text:
    return Text(NODE_ID.sub(r"\1", text))


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left")
