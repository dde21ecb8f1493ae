"""The figures of the last runs as tables and a plot, and in the README.

Reads the last line of each file in benchmarks/results/, and says of which commits, days and machines they are.

    python benchmarks/report.py              print the tables (Markdown)
    python benchmarks/report.py --write      and put them into README.md, between its two "figures" comments; draw the plot
    python benchmarks/report.py --check      exit code 1 when README.md has others
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cutoffs import in_words
from record import RESULTS, ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- figures: written by benchmarks/report.py -->", "<!-- end of figures -->"

BENCHMARKS = (
    "voice_latency",
    "session_capacity",
    "peers",
    "stt_batch",
    "llm_batch",
    "tts_batch",
    "noisy_neighbour",
    "endpointing",
    "barge_in",
    "session_start",
    "frame_hop",
    "scale_sim",
)
PLOT = "capacity.svg"
SIMULATED_PLOT = "scale_sim.svg"

Run = dict[str, Any]


def last_run(benchmark: str) -> Run | None:
    """The newest line of a benchmark; None when it never ran."""
    path = RESULTS / f"{benchmark}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not lines:
        return None
    run: Run = json.loads(lines[-1])
    return with_other_voices(run, map(json.loads, reversed(lines[:-1]))) if benchmark == "session_capacity" else run


def with_other_voices(run: Run, earlier: Iterable[Run]) -> Run:
    """``run`` and the newest figures of the voices that it is not about, from runs of its kind; each row tells its commit."""
    rows = [{**row, "commit": run["commit"]} for row in run["rows"]]
    together = {**run, "knees": dict(run["knees"]), "rows": rows}
    for other in earlier:
        if all(other.get(key) == run.get(key) for key in ("groups", "limit_ms", "machine")):
            missing = other["knees"].keys() - together["knees"].keys()
            together["knees"] |= {voice: other["knees"][voice] for voice in missing}
            together["rows"] += [{**row, "commit": other["commit"]} for row in other["rows"] if row["voice"] in missing]
    return together


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
        row("the client's own delay, max, ms", lambda f: f.get("client_late_ms")),
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


def all_keys(rows: list[Run], title: str) -> str:
    """Rows as they were recorded, a column for each key that any of them has; ``title`` heads the first one."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    header = [f"{title}: {key.replace('_', ' ')}" if number == 0 else key.replace("_", " ") for number, key in enumerate(keys)]
    return markdown(header, [[row.get(key) for key in keys] for row in rows])


def session_capacity(run: Run) -> str:
    """How many sessions a machine holds."""
    knees = ", ".join(f"**{knee} sessions** with {voice}" for voice, knee in run["knees"].items())
    return (
        all_keys(run["rows"], "load")
        + f"\n\nUp to {run['limit_ms']:g} ms at p95, all turns answered: {knees} ({run['groups']} groups"
        + (f"; {run['runs']} runs: medians of the times, sums of the counts" if run.get("runs", 1) > 1 else "")
        + f"). Cut off in pauses, at the same commit: {in_words(run.get('cut_offs'))}."
    )


def peers(run: Run) -> str:
    """The same load on ours and on others, and the ratios."""
    rows = [
        {"server": _peer(server["name"]), **{key: value for key, value in row.items() if not isinstance(value, list)}}
        for server in run["servers"]
        for row in server["rows"]
    ]
    failed = [f"{_peer(server['name'])} failed: {server['failed']}." for server in run["servers"] if server.get("failed")]
    said = [line for name, found in run.get("ratios", {}).items() for line in _ratios(_peer(name), found)]
    return "\n\n".join(filter(None, [all_keys(rows, "beside others") if rows else "", " ".join([*said, *failed])]))


def _peer(name: str) -> str:
    return {"shelf": "Pipecat off the shelf", "tuned": "Pipecat tuned"}.get(name, name)


def _ratios(name: str, found: Run) -> list[str]:
    speeds = [f"{line['p50']} / {line['p95']} times at {line['sessions']}" for line in found.get("speed", []) if line["p95"]]
    held = [
        f"{'at least ' if line['at_least'] else ''}{line['ratio']:g} times the sessions at its p95 of {line['p95_ms']:g} ms"
        for line in found.get("capacity", [])
    ]
    fast = f"As fast (p50 / p95) as {name}: {', '.join(speeds)} sessions." if speeds else ""
    return list(filter(None, [fast, f"Beside {name}: {'; '.join(held)}." if held else ""]))


def stt_batch(run: Run) -> str:
    """Finals at once, and beside interims."""
    name = f"finals at once, {run['model']} on {run['device']}"
    return all_keys(run["rows"], name) + "\n\n" + all_keys(run["beside_interims"], "finals beside interims")


def tts_batch(run: Run) -> str:
    """Clauses at once, a table per voice."""
    return "\n\n".join(
        all_keys(voice["rows"], f"clauses at once, {voice['backend']} on {voice['device']}") for voice in run["voices"]
    )


def scale_sim(run: Run) -> str:
    """What the scheduler decided on a simulated cluster, what it took, and the plot that the benchmark drew."""
    rows: list[list[Any]] = [
        ["sessions admitted / turned away", f"{run['admitted']:,} / {run['turned_away']:,}"],
        ["nodes up, least to most", f"{run['nodes_least']} to {run['nodes_most']}"],
        ["places taken, of those that were up", _percent(run["places_used"])],
        ["sessions moved by scaling down / lost by it", f"{run['moved_by_drains']:,} / {run['lost_by_drains']:,}"],
        ["nodes that failed / sessions lost with them", f"{run['failures']} / {run['lost_by_failures']:,}"],
        ["to admit a client, p50 / p99, us", f"{run['admit_p50_us']} / {run['admit_p99_us']}"],
        ["to place 1,000 engines on 1,000 nodes, s", run["placement_1000_on_1000_s"]],
    ]
    name = f"simulated: {run['nodes']:,} nodes at most, {run['sessions']:,} sessions at the peak, {run['hours']:g} h"
    plot = f"![Sessions, places and nodes over the simulated day](benchmarks/results/{SIMULATED_PLOT})"
    return f"{markdown([name, ''], rows)}\n\n{plot}"


def rows_of(title: str) -> Any:
    """A table of whatever a run's ``rows`` have."""
    return lambda run: all_keys(run["rows"], title) if run.get("rows") else ""


TABLES = {
    "voice_latency": voice_latency,
    "session_capacity": session_capacity,
    "peers": peers,
    "stt_batch": stt_batch,
    "llm_batch": rows_of("answers at once"),
    "tts_batch": tts_batch,
    "noisy_neighbour": rows_of("frames beside a bad session"),
    "endpointing": endpointing,
    "scale_sim": scale_sim,
}
"""What has tables of its own, in this order."""


def curves(runs: dict[str, Run]) -> dict[str, list[tuple[int, float]]]:
    """Voice to voice p95 over the number of sessions: name -> (sessions, ms). Of one run, so that all met the same machine."""
    if "peers" in runs:
        servers = [(_peer(server["name"]), server["rows"]) for server in runs["peers"]["servers"]]
    elif "session_capacity" in runs:
        run = runs["session_capacity"]
        servers = [(voice, [row for row in run["rows"] if row["voice"] == voice]) for voice in run["knees"]]
    else:
        servers = []
    points = {name: [(row["sessions"], row["p95_ms"]) for row in rows if row["p95_ms"] is not None] for name, rows in servers}
    return {name: found for name, found in points.items() if found}


def draw(lines: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """The plot, as SVG: the same bytes for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "rtvi_actors", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(
            xlabel="sessions",
            ylabel="voice to voice p95, ms",
            ylim=(0, None),
            xticks=sorted({x for p in lines.values() for x, _ in p}),
        )
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, format="svg", metadata={"Date": None})


def runs_found() -> dict[str, Run]:
    """The newest run of each benchmark that has one."""
    return {name: run for name in BENCHMARKS if (run := last_run(name)) is not None}


def report() -> str:
    """All tables that there are runs for, and the plot's link; first the runs' commits, machines and days."""
    runs = runs_found()
    if not runs:
        return "No benchmark has been run yet."
    stamps = sorted({f"commit {run['commit']}, {run['at'][:10]}, {run['machine']}" for run in runs.values()})
    parts = ["Measured at " + "; ".join(stamps) + "."]
    parts += [table(runs[name]) for name, table in TABLES.items() if name in runs]
    if curves(runs):
        parts.append(f"![Voice to voice p95 over the number of sessions](benchmarks/results/{PLOT})")
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
        if lines := curves(runs_found()):
            draw(lines, RESULTS / PLOT)
    print(figures)


if __name__ == "__main__":
    main()
