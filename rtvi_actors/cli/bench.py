"""``rtvi-actors bench``: the benchmarks of a source checkout, by name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from rtvi_actors.errors import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def programs(folder: Path = FOLDER) -> dict[str, str]:
    """Name of each benchmark -> the first line of what it says about itself.

    Raises:
        ConfigError: there are none: the package was installed without its sources.
    """
    parsed = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    # The others are modules that the programs share.
    found = {name: tree for name, tree in parsed.items() if any(getattr(node, "name", "") == "main" for node in tree.body)}
    if not found:
        raise ConfigError(f"no benchmarks in {folder}: they come with the source checkout, not with the installed package")
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in found.items()}


def run(name: str | None, arguments: list[str], folder: Path = FOLDER) -> int:
    """Run the benchmark ``name`` with ``arguments``; without a name, list them. Returns the exit code.

    Raises:
        ConfigError: no such benchmark; says which there are.
    """
    known = programs(folder)
    if name in (None, "--help"):
        console = Console()
        for program, line in known.items():
            console.print(f"[bold]{program:15}[/bold] {line}", highlight=False, soft_wrap=True)
        return 0
    if name not in known:
        raise ConfigError(f"there is no benchmark {name!r}; there are: {', '.join(known)}")
    return subprocess.run([sys.executable, str(folder / f"{name}.py"), *arguments], check=False).returncode
