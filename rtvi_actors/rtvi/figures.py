"""The metrics message: figures of a turn, times in seconds."""

from __future__ import annotations

from typing import Any

from rtvi_actors.rtvi.events import TurnFigures
from rtvi_actors.rtvi.messages import Message

_TIMES = {"ttfb_ms": "ttfb", "processing_ms": "processing"}
_TOKENS = ("prompt_tokens", "completion_tokens")


def metrics(figures: TurnFigures) -> list[Message]:
    """One metrics message, none when there is nothing to tell.

    ``turn_latency`` is ours: ``[{turn, total, own_share, segments: [{name, value}]}]``, the segments adding up to the total.
    """
    data: dict[str, list[dict[str, Any]]] = {}
    tokens = dict.fromkeys(_TOKENS, 0)
    for processor, name, value in figures.services:
        if name in _TIMES:
            data.setdefault(_TIMES[name], []).append({"processor": processor, "value": _seconds(value)})
        elif name == "characters":
            data.setdefault("characters", []).append({"processor": processor, "value": int(value)})
        elif name in tokens:
            tokens[name] += int(value)
    if any(tokens.values()):
        data["tokens"] = [{**tokens, "total_tokens": sum(tokens.values())}]
    if figures.segments_ms:
        data["turn_latency"] = [_latency(figures)]
    return [Message("metrics", data)] if data else []


def _latency(figures: TurnFigures) -> dict[str, Any]:
    return {
        "turn": figures.turn,
        "total": _seconds(figures.total_ms),
        "own_share": _seconds(figures.own_share_ms),
        "segments": [{"name": name, "value": _seconds(value)} for name, value in figures.segments_ms.items()],
    }


def _seconds(milliseconds: float) -> float:
    return round(milliseconds / 1_000, 6)
