"""What ``rtvi-actors status`` prints."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rtvi_actors.cli import status
from rtvi_actors.cli.status_view import Facts, overview, reasons
from rtvi_actors.errors import ConfigError

pytestmark = pytest.mark.unit

FACTS: Facts = {
    "app": "shop",
    "url": "http://127.0.0.1:7860",
    "draining": False,
    "capacity": {"sessions": 0, "max_sessions": 4, "free": 2, "granted": 7, "refused": 1},
    "sessions": [],
    "engines": [],
    "edges": [],
    "groups": [{"name": "0", "state": "ready", "sessions": 0}],
    "figures": {
        "stt": {"processes": 2.0, "memory_bytes": 120 * 2**20, "cpu_s": 3.25, "loop_lag_s": 0.004, "stalls": 1.0},
        "engine/stt": {
            "processes": 1.0,
            "memory_bytes": 2**30,
            "cpu_s": 9.0,
            "loop_lag_s": 0.0,
            "stalls": 0.0,
            "engine_in_flight": 3.0,
        },
        "speaking": {"cpu_s": 1.0, "stalls": 0.0},
    },
}


HERE, THERE, GONE = "a1" * 28, "b2" * 28, "c3" * 28
"""Nodes, as Ray names them."""


def actor(name: str, kind: str, node: str, why: str, **more: Any) -> Facts:
    told = {"kind": kind, "name": name, "state": "up", "pid": 4_711, "actor_id": "0f" * 16, "node": node[:8]}
    return told | {"sessions": 2, "leaving": False, "why": f"{name} {why}"} | more


def node(of: str, address: str, actors: list[str], **more: Any) -> Facts:
    told = {"node": of[:8], "address": address, "cpus": 8.0, "memory_bytes": 16 * 2**30, "gpus": 0, "labels": {}}
    return told | {"draining": False, "sessions": 0, "actors": actors} | more


CLUSTER: Facts = FACTS | {
    "node": HERE[:8],
    "figures": {},
    "engines": [
        actor("shop/engine/llm/0", "llm", GONE, f"was on node {GONE}, which is gone"),
        actor("shop/engine/stt/0", "stt", HERE, f"on node {HERE} (10.0.0.1): the emptiest"),
        actor(
            "shop/engine/stt/1", "stt", THERE, f"on node {THERE} (10.0.0.2), device 0, 0.4 GPU: [beside] its mates", leaving=True
        ),
    ],
    "edges": [actor("shop/edge/0", "edge", HERE, f"on node {HERE} (10.0.0.1): the emptiest")],
    "groups": [
        {"name": "3", "state": "ready", "sessions": 1, "node": HERE[:8], "why": f"group/3 on node {HERE}: the node of its edge"},
        {"name": "4", "state": "starting", "sessions": 0, "node": THERE[:8], "why": f"group/4 on node {THERE}: the emptiest"},
    ],
    "nodes": [
        node(HERE, "10.0.0.1", ["shop/engine/stt/0", "shop/edge/0", "group/3", "group/5"], sessions=7),
        node(THERE, "10.0.0.2", ["shop/engine/stt/1", "group/4"], gpus=1, draining=True),
    ],
    "pending": {"shop/engine/llm/0": f"shop/engine/llm/0 was on node {GONE}, which is gone"},
}


@pytest.fixture
def printed() -> Any:
    def show(parts: Any, width: int = 200) -> str:
        out = io.StringIO()
        status.show(parts, Console(file=out, width=width))
        return out.getvalue()

    return show


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of all tables."""
    rows = ([cell.strip() for cell in line.strip("│\n").split("│")] for line in text.splitlines() if line.startswith("│"))
    return {first: rest for first, *rest in rows}


def test_processes_are_shown_by_role(printed: Any) -> None:
    rows = rows_of(printed(overview(FACTS)))
    assert rows["stt"] == ["2", "120 MiB", "3.2 s", "4 ms", "1", ""]
    assert rows["engine/stt"] == ["1", "1024 MiB", "9.0 s", "0 ms", "0", "3 in flight"]
    assert rows["speaking"] == ["0", "0 MiB", "1.0 s", "0 ms", "0", ""]


def test_an_app_that_has_not_been_asked_yet_has_no_figures(printed: Any) -> None:
    assert "by role" not in printed(overview(FACTS | {"figures": {}}))


def test_one_node_is_not_mentioned(printed: Any) -> None:
    alone = CLUSTER | {"nodes": CLUSTER["nodes"][:1], "pending": {}}
    text = printed(overview(alone))
    assert rows_of(text)["shop/engine/stt/0"] == ["stt", "4711", "0f" * 16]
    assert text.splitlines()[-1] == "groups: 3 ready (1), 4 starting (0)"
    assert "10.0.0.1" not in text


def test_nodes_with_what_is_on_them(printed: Any) -> None:
    rows = rows_of(printed(overview(CLUSTER)))
    assert rows[HERE[:8]] == ["10.0.0.1", "8", "16.0 GiB", "0", "7", "scheduler, 1 stt, 1 edge, 2 groups", "up"]
    assert rows[THERE[:8]] == ["10.0.0.2", "8", "16.0 GiB", "1", "0", "1 stt, 1 group", "draining"]
    assert rows["shop/engine/stt/1"] == ["stt", "2", "leaving", THERE[:8], "4711", "0f" * 16]
    assert rows["shop/engine/llm/0"] == ["llm", "2", "pending", "", "", ""], "not where it was"
    assert rows["3"] == [HERE[:8], "1", "ready"]


def test_what_is_pending_is_a_line_with_its_reason(printed: Any) -> None:
    for view in (overview, reasons):
        last = printed(view(CLUSTER), width=40).splitlines()[-1]
        assert last == f"shop/engine/llm/0 is pending: was on node {GONE[:8]}, which is gone"
    one_node = CLUSTER | {"nodes": [], "pending": {"shop/engine/tts/0": "tts: needs 2.0 GB of memory"}}
    assert printed(overview(one_node)).endswith("shop/engine/tts/0 is pending: tts: needs 2.0 GB of memory\n")


def test_why_is_a_line_for_each_actor(printed: Any) -> None:
    assert printed(reasons(CLUSTER), width=40).splitlines()[:-1] == [
        f"shop/engine/stt/0 on node {HERE[:8]} (10.0.0.1): the emptiest",
        f"shop/engine/stt/1 on node {THERE[:8]} (10.0.0.2), device 0, 0.4 GPU: [beside] its mates; it leaves",
        f"shop/edge/0 on node {HERE[:8]} (10.0.0.1): the emptiest",
        f"group/3 on node {HERE[:8]}: the node of its edge",
        f"group/4 on node {THERE[:8]}: the emptiest",
    ]


def test_a_watch_shows_what_is_new_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "WATCH_PERIOD_S", 0.0)
    answers = [CLUSTER, CLUSTER | {"groups": []}]

    def ask() -> Facts:
        if not answers:
            raise KeyboardInterrupt
        return answers.pop(0)

    out = io.StringIO()
    status._watch(ask, reasons, Console(file=out, width=200, force_terminal=True))
    first, _, second = out.getvalue().partition("group/4")
    assert "group/3" in first
    assert "shop/edge/0" in second
    assert "group/3" not in second


@pytest.mark.parametrize(("more", "complaint"), [({"as_json": True}, "--json"), ({}, "terminal")])
def test_a_watch_is_for_people(more: dict[str, bool], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        status.status("shop", None, **({"as_json": False, "why": False, "watch": True} | more))
