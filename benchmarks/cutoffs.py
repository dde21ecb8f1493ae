"""How often users are cut off, beside figures that patience would make worse: the last run of ``endpointing.py``, if it fits."""

from __future__ import annotations

import json
from typing import Any

from record import RESULTS, commit, machine

NOT_MEASURED = "not measured"


def last_cut_offs() -> dict[str, Any] | None:
    """``{cases, cut_off, repaired, wait_p50_ms, wait_p95_ms, ...}`` of the last run of this commit on this machine.

    None if there was none: then nobody knows what was paid for a latency.
    """
    path = RESULTS / "endpointing.jsonl"
    if not path.exists():
        return None
    here = (commit().rstrip("+"), machine())
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        run = json.loads(line)
        if (run["commit"].rstrip("+"), run["machine"]) == here:
            return dict(run["all"])
    return None


def in_words(figures: dict[str, Any] | None) -> str:
    """One cell of a table: ``3 of 64 (4.7 %), 2 repaired``."""
    if figures is None:
        return NOT_MEASURED
    share = 100 * figures["cut_off"] / figures["cases"]
    return f"{figures['cut_off']} of {figures['cases']} ({share:.1f} %), {figures['repaired']} repaired"
