"""``rtvi-actors``: the command line. Each command's work is in a module of its own, imported when it is used."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from pathlib import Path
from typing import Annotated

import typer

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, RtviActorsError

app = typer.Typer(
    name="rtvi-actors",
    help="Launch, watch and talk to real-time voice bots on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
)
app.add_typer(importlib.import_module("rtvi_actors.cli.models").app, name="models", help="Prepare and list models.")

ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="TOML file; without it the laptop profile.")]
AppOption = Annotated[str | None, typer.Option("--app", help="Name of the app and of its Ray namespace. [default: rtvi_actors]")]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="RAY_ADDRESS", help="A running Ray cluster; without it an own local Ray.")
]


@app.command()
def serve(
    config: ConfigArgument = None,
    bot: Annotated[str | None, typer.Option("--bot", metavar="module:Class", help="The bot to run.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 7860]")] = None,
    address: AddressOption = None,
    app_name: AppOption = None,
) -> None:
    """Start engines, an edge and a warm pool; print "ready http://HOST:PORT"; run until Ctrl-C or SIGTERM."""
    from rtvi_actors.cli import serve as command

    loaded = Config.load(config) if config is not None else Config()
    edge: dict[str, object] = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    sections: dict[str, dict[str, object]] = {"edge": edge}
    if bot is not None:
        sections["bot"] = {"class": bot}
    if app_name is not None:
        sections["app"] = {"name": app_name}
    command.run(loaded.replace(**sections), address=address)


@app.command()
def stop(app_name: AppOption = None, address: AddressOption = None) -> None:
    """End a running app: its sessions, actors and, if it started one, its local Ray."""
    from rtvi_actors.cli import status as command

    command.stop(app_name or "rtvi_actors", address)


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="A node of the cluster, by its address or the beginning of its id.")] = "",
    app_name: AppOption = None,
    address: AddressOption = None,
    timeout_s: Annotated[int, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long sessions may go on.")] = 300,
) -> None:
    """Let no more clients in, and wait until all sessions of a running app are over. Who is left is told 10 s before.

    With NODE: only empty that node. Its sessions go on elsewhere where their client is connected to another node, its engines
    and edges are started on other nodes, and the app goes on.
    """
    from rtvi_actors.cli import status as command

    command.drain(app_name or "rtvi_actors", address, timeout_s, node)


@app.command()
def status(
    app_name: AppOption = None,
    address: AddressOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it, as JSON.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Print where each engine, edge and group is, and why.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew each second, until Ctrl-C.")] = False,
) -> None:
    """Show a running app: sessions with their actors, nodes, engines, edges, capacity, and what has no node yet."""
    from rtvi_actors.cli import status as command

    command.status(app_name or "rtvi_actors", address, as_json=as_json, why=why, watch=watch)


@app.command()
def talk(
    url: Annotated[str, typer.Argument(help="Address of a running app.")] = "ws://127.0.0.1:7860/ws",
    wav: Annotated[list[Path] | None, typer.Option(help="Say this WAV file. May be repeated.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Type this. May be repeated.")] = None,
    say: Annotated[list[str] | None, typer.Option(help="Say this, in the voice of the TTS backend. May be repeated.")] = None,
    save: Annotated[Path, typer.Option(help="Folder for the bot's audio.")] = Path("talk-audio"),
    microphone: Annotated[bool, typer.Option("--microphone", help="Talk yourself, until Ctrl-C.")] = False,
) -> None:
    """Talk to a running app; print transcript, answer and latency waterfall; save the bot's audio."""
    from rtvi_actors.cli import microphone as by_microphone
    from rtvi_actors.cli import talk as command

    if microphone:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(by_microphone.converse(url))
        return
    asyncio.run(command.talk(url, wav=wav or [], text=text or [], say=say or [], save=save))


@app.command("config")
def configuration() -> None:
    """Print the page of all configuration keys: their defaults, what is allowed, what they mean."""
    from rtvi_actors.cli import config_page

    typer.echo(config_page.page(), nl=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Which one; without it they are listed.")] = None,
) -> None:
    """Run a benchmark of the source checkout; options behind its name are its own (NAME --help tells them)."""
    from rtvi_actors.cli import bench as command

    raise typer.Exit(command.run(name, context.args))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the conversation.")] = False,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 7860]")] = None,
    save: Annotated[Path, typer.Option(help="Folder for the bot's audio.")] = Path("demo-audio"),
) -> None:
    """Start the app, hold a spoken conversation in the terminal, then stay up until Ctrl-C."""
    from rtvi_actors.cli import demo as command

    edge: dict[str, object] = {} if port is None else {"port": port}
    command.run(Config().replace(edge=edge, app={"log_level": "warning"}), once=once, save=save)


def main() -> None:
    """Run the command line. A wrong configuration, a missing model, a port in use: one line, exit code 2."""
    try:
        app()
    except RtviActorsError as error:
        typer.echo(f"rtvi-actors: {error}", err=True)
        raise SystemExit(2 if isinstance(error, ConfigError) or error.scope == "cluster" else 1) from None


if __name__ == "__main__":
    main()
