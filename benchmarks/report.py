"""The figures of the last runs as one table, and in the README.

Reads the last line of each file in benchmarks/results/. Figures of another commit or machine than the newest are marked.

    python benchmarks/report.py              print the tables (Markdown)
    python benchmarks/report.py --write      and put them into README.md, between its two "figures" comments
    python benchmarks/report.py --check      exit code 1 when README.md has others
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from record import RESULTS, ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by benchmarks/report.py -->", "<!-- end of figures -->"

Run = dict[str, Any]


def last_run(benchmark: str) -> Run | None:
    """The newest line of a benchmark; None when it never ran."""
    path = RESULTS / f"{benchmark}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else None


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in row) + " |" for row in cells)


def voice_latency(run: Run) -> str:
    """Voice to voice, a column per set of recordings."""
    sets: list[Run] = run["sets"]

    def row(name: str, show: Any) -> list[Any]:
        return [name, *(show(figures) for figures in sets)]

    def spread(figures: Run, key: str, *parts: str) -> str:
        return " / ".join("-" if figures[key][part] is None else f"{figures[key][part]:.0f}" for part in parts)

    def segment(name: str) -> Any:
        def cell(figures: Run) -> str | None:
            found = figures["segments_ms"].get(name)
            return None if found is None else f"{found['p50']:.0f} / {found['p95']:.0f}"

        return cell

    rows = [
        row("turns answered / asked", lambda f: f"{f['turns'] - f['unanswered']} / {f['turns']}"),
        row("turns cut in two", lambda f: f["cut_in_two"]),
        row("**voice to voice p50 / p95 / max, ms**", lambda f: f"**{spread(f, 'voice_to_voice_ms', 'p50', 'p95', 'max')}**"),
        row("our own share p50 / p95, ms", lambda f: spread(f, "own_share_ms", "p50", "p95")),
        *(row(f"{name} p50 / p95, ms", segment(name)) for name in sets[0]["segments_ms"]),
        row("gaps over 40 ms in the bot's audio", _gaps),
        row("word error rate of the transcripts", lambda f: _percent(f["word_error_rate"])),
    ]
    memory = ", ".join(f"{role} {mib:g}" for role, mib in sorted(run.get("uss_mib", {}).items()))
    return markdown(["voice to voice", *(figures["set"] for figures in sets)], rows) + (
        f"\n\nMemory of the processes (USS, MiB): {memory}." if memory else ""
    )


def _gaps(figures: Run) -> str:
    count = figures["gaps_over_40_ms"]
    return f"{count} (longest {figures['longest_gap_ms']:.0f} ms)" if count else "0"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def endpointing(run: Run) -> str:
    """Cut-offs and added wait, a row per length of the pause."""
    everything = [{"pause_ms": None, **run["all"]}] if "all" in run else []
    rows = [
        [
            "all" if row["pause_ms"] is None else f"{row['pause_ms']} ms" if row["pause_ms"] else "none",
            row["cases"],
            row["cut_off"],
            row["repaired"],
            f"{_number(row['wait_p50_ms'])} / {_number(row['wait_p95_ms'])}",
        ]
        for row in [*run["rows"], *everything]
    ]
    return markdown(
        ["pause in mid-sentence", "utterances", "cut off", "of these reopened, nothing lost", "added wait p50 / p95, ms"], rows
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def small(runs: dict[str, Run]) -> str:
    """Barge-in, session start and frame hop, one row each."""
    rows: list[list[Any]] = []
    if "barge_in" in runs:
        run = runs["barge_in"]
        name = f"barge-in, user's first sound to the bot's last ({run['interruptions']} times)"
        rows.append([name, f"{run['p50_ms']:.0f}", f"p95 {run['p95_ms']:.0f}"])
    for row in runs.get("session_start", {}).get("rows", []):
        name = f"WebSocket open to bot-ready, warm, {row['groups']} groups ({row['sessions']} times)"
        rows.append([name, f"{row['p50_ms']:.0f}", f"p95 {row['p95_ms']:.0f}"])
    for row in runs.get("frame_hop", {}).get("rows", []):
        name = f"a frame from process to process, {row['way']}, {row['sessions']} sessions"
        rows.append([name, row["p50_ms"], f"p99 {row['p99_ms']}"])
    return markdown(["also", "p50, ms", "tail, ms"], rows) if rows else ""


def report() -> str:
    """All tables that there are runs for, newest runs first told by commit, machine and day."""
    names = ("voice_latency", "endpointing", "barge_in", "session_start", "frame_hop")
    runs = {name: run for name in names if (run := last_run(name)) is not None}
    if not runs:
        return "No benchmark has been run yet."
    stamps = sorted({f"commit {run['commit']}, {run['at'][:10]}, {run['machine']}" for run in runs.values()})
    parts = ["Measured at " + "; ".join(stamps) + "."]
    if "voice_latency" in runs:
        parts.append(voice_latency(runs["voice_latency"]))
    if "endpointing" in runs:
        parts.append(endpointing(runs["endpointing"]))
    parts.append(small(runs))
    return "\n\n".join(part for part in parts if part)


def replaced(readme: str, figures: str) -> str:
    """``readme`` with ``figures`` between its two comments.

    Raises:
        ValueError: it has no such comments.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def main() -> None:
    """Print, write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    parser.add_argument("--check", action="store_true", help="say whether README.md has these tables")
    options = parser.parse_args()
    figures = report()
    readme = README.read_text(encoding="utf-8")
    if options.check:
        sys.exit(0 if replaced(readme, figures) == readme else "README.md has other figures: python benchmarks/report.py --write")
    if options.write:
        README.write_text(replaced(readme, figures), encoding="utf-8")
    print(figures)


if __name__ == "__main__":
    main()
