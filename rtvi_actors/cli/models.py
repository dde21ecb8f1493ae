"""``rtvi-actors models``: prepare the models, and list them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rtvi_actors.config import Config
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models import prepare as prepared_models
from rtvi_actors.models.catalogue import CATALOGUE, Model, select

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file; its models_dir counts.")]


@app.command()
def prepare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAMES]", help="Models to prepare; without it those that are not optional.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the hashes of everything.")] = False,
    config: ConfigOption = None,
) -> None:
    """Convert the models' weights from the packages that carry them. What is ready is left alone."""
    models_path = _config(config).models_path()
    console = Console(stderr=True)
    console.print(f"models in {models_path}", highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn("{task.fields[name]}"), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"), console=console
    )
    with bar:
        tasks: dict[str, TaskID] = {
            model.name: bar.add_task("", total=1.0, start=False, name=model.name) for model in select(names or [])
        }

        def report(name: str, done: float, text: str) -> None:
            bar.start_task(tasks[name])
            bar.update(tasks[name], completed=done, description=text)

        prepared_models.prepare(names or [], models_path, report, verify=verify)


@app.command("list")
def list_models(config: ConfigOption = None) -> None:
    """Show the known models: package, state, size, licence and folder."""
    loaded = _config(config)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "package", "state", "size", "licence", "what", "where"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    for model in CATALOGUE:
        package = ", ".join(part.name for part in model.packages) + (
            "" if model.package_folder() is not None else " (not installed)"
        )
        state, where = _state(model, loaded)
        size = f"{model.size_bytes / 1e6:.0f} MB"
        table.add_row(model.name, model.kind, package, state, size, model.licence, model.summary, where)
    # Wider than any terminal: paths are to be copied, so lines are not folded into columns.
    Console(width=1_000).print(table, highlight=False)


def _state(model: Model, config: Config) -> tuple[str, str]:
    """Prepared or not, and the folder or what to do."""
    try:
        return "ready", str(prepared_models.path_of(model.name, config))
    except ModelMissingError as error:
        return "optional" if model.on_demand else "missing", str(error)


def _config(path: Path | None) -> Config:
    return Config.load(path) if path is not None else Config()
