"""``rtvi-actors serve``: from a configuration to a running app, and to its clean end."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from rtvi_actors.bot import load_bot
from rtvi_actors.cli import guardian, local_ray, running
from rtvi_actors.cli.local_ray import ray
from rtvi_actors.config import Config, runtime_folder
from rtvi_actors.engines.actor import backend_class
from rtvi_actors.errors import ConfigError, ModelMissingError, RtviActorsError, SessionLostError
from rtvi_actors.models.prepare import command, missing, path_of
from rtvi_actors.observe import log as observe_log
from rtvi_actors.observe import tracing
from rtvi_actors.scheduler.actor import Scheduler, drain_limit_s
from rtvi_actors.scheduler.nodes import on_any_node
from rtvi_actors.scheduler.replicas import ENGINE_CLASSES
from rtvi_actors.speaking.end_of_turn import model_class

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 20.0
DRAIN_MARGIN_S = 5.0
"""For the scheduler to say that a drain is over."""
PING_PERIOD_S = 2.0
PING_DEADLINE_S = 10.0
"""A scheduler that does not answer for this long hangs: nobody can be admitted, nothing that dies is replaced."""


def run(config: Config, *, address: str | None = None) -> None:
    """Start the app, print ``ready http://HOST:PORT`` on stdout, run until SIGINT or SIGTERM, end clean.

    Raises:
        ConfigError, ModelMissingError: told in one line before anything is started.
        RtviActorsError: what kept an actor from starting.
    """
    with serving(config, address=address) as app:
        print(f"ready {app.url}", flush=True)
        app.wait()


class StopRequest(threading.Event):
    """Set by the first signal. ``by``: which it was. While ``draining``, a second one ends the wait; else it ends the process."""

    by = 0
    draining = False

    def take(self, number: int, _frame: FrameType | None) -> None:
        """The handler of both signals."""
        if not self.is_set():
            self.by = number
            self.set()
        elif self.draining:
            self.draining = False
        else:
            sys.exit(128 + number)


class App:
    """A running app, seen from the process that started it."""

    def __init__(self, url: str, scheduler: Any, stop_requested: StopRequest) -> None:
        self.url = url
        self.scheduler = scheduler
        self.hangs = False
        """The scheduler does not answer: there is no use in asking it to stop."""
        self._stop_requested = stop_requested
        self._ended = scheduler.run_until_stopped.remote()

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop."""
        return self._stop_requested.is_set()

    def wait(self) -> None:
        """Block until a signal asks to stop, or somebody else stopped the app.

        Raises:
            SessionLostError: the scheduler died, or does not answer.
        """
        ping, asked = self.scheduler.ping.remote(), time.monotonic()
        while not self._stop_requested.wait(0.5):
            done, _ = ray.wait([self._ended, ping], num_returns=2, timeout=0)
            now = time.monotonic()
            try:
                # Who stopped the app also ended the scheduler: a ping that was asked since fails, and means nothing.
                ray.get(self._ended if self._ended in done else done)
            except ray.exceptions.RayActorError as error:
                raise SessionLostError("the scheduler died, and the app with it; see what it said above") from error
            if self._ended in done:
                return
            if ping not in done and now - asked > PING_DEADLINE_S:
                self.hangs = True
                raise SessionLostError(f"the scheduler does not answer for {PING_DEADLINE_S:.0f} s; the app is ended")
            if ping in done and now - asked > PING_PERIOD_S:
                ping, asked = self.scheduler.ping.remote(), now


@contextlib.contextmanager
def serving(config: Config, *, address: str | None = None) -> Iterator[App]:
    """The app while the block runs. A signal during the start ends the start."""
    check(config)
    in_json = config.app.log_format == "json"
    observe_log.set_up(f"{config.app.name}/serve", config.app.log_level, config.app.log_format)
    console = Console(stderr=True, quiet=in_json)
    folder = runtime_folder()
    stop_requested = StopRequest()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(_signals(stop_requested))
        progress = stack.enter_context(console.status("starting Ray"))
        started = time.monotonic()
        _enter_ray(stack, config, address, folder)
        _take_signals(stop_requested)  # again: Ray has just put handlers of its own in their place
        scheduler = _create_scheduler(config, folder, detached=address is not None)
        progress.update("starting engines, edge and stage actors")
        app = None
        try:
            facts = _get(scheduler.start.remote(), stop_requested)
            running.remember(config.app.name, ray.get_runtime_context().gcs_address, facts["url"])
            stack.callback(running.forget, config.app.name)
            progress.stop()
            took = f"started in {time.monotonic() - started:.1f} s"
            console.print(took, style="dim")
            if in_json:
                log.info(took)
            app = App(facts["url"], scheduler, stop_requested)
            yield app
            if stop_requested.by == signal.SIGTERM and (timeout_s := config.scheduler.drain_timeout_s):
                console.print(f"draining: sessions may go on for {timeout_s} s; a second signal ends them")
                _drain(scheduler, timeout_s, drain_limit_s(config, timeout_s), stop_requested)
        finally:
            with console.status("stopping"):
                _stop(scheduler, polite=app is None or not app.hangs)


def _enter_ray(stack: contextlib.ExitStack, config: Config, address: str | None, folder: Path) -> None:
    """Start or join Ray; ``stack`` leaves it. A guardian clears up after a local one if this process is killed."""
    roots = local_ray.start(config.app.name, address, json_log=config.app.log_format == "json")
    stack.callback(local_ray.shut_down, roots)
    if roots:
        guarding = guardian.start(folder, roots)
        stack.callback(guarding.wait)
        stack.callback(guarding.kill)


def check(config: Config) -> None:
    """Find what would fail later, while nothing is started yet.

    Raises:
        ConfigError: a bot cannot be loaded, a backend is unknown, the port is in use, or an app of this name runs already.
        ModelMissingError: models are not prepared.
    """
    for name in (config.bot.class_, *config.bots.values()):
        load_bot(name)
    for kind in ENGINE_CLASSES:
        backend_class(kind, getattr(config, kind).backend)
    model_class(config.speaking.endpointing)
    tracing.check(config.observe)
    absent = missing(config)
    if len(absent) == 1:
        path_of(absent[0], config)  # says what is wrong with it
    if absent:
        raise ModelMissingError(f"models not prepared: {', '.join(absent)}; run `{command(absent)}`")
    if (other := running.find(config.app.name)) is not None:
        raise ConfigError(f"app {config.app.name!r} runs already at {other.url}; stop it, or choose another name with --app")
    for number in range(config.scheduler.edges if config.edge.port else 0):
        _check_port(config.edge.host, config.edge.port + number)


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port or --host"
        ) from None


def _create_scheduler(config: Config, folder: Path, *, detached: bool) -> Any:
    options: dict[str, Any] = {
        "name": f"{config.app.name}/scheduler",
        "namespace": config.app.name,
        "max_concurrency": 1_000,
        # Beside this process, which made the folder for the sockets and checked the models.
        **on_any_node(ray.get_runtime_context().get_node_id()),
    }
    if detached:
        options["lifetime"] = "detached"
    try:
        return ray.remote(Scheduler).options(**options).remote(config.to_dict(), str(folder), config.app.name, detached)
    except ValueError as error:
        raise ConfigError(f"app {config.app.name!r} runs already in this cluster: {error}") from error


def _drain(scheduler: Any, timeout_s: int, limit_s: float, stop_requested: StopRequest) -> None:
    """Wait until all sessions are over, a signal comes, or the scheduler does not answer."""
    drained, deadline = scheduler.drain.remote(timeout_s), time.monotonic() + limit_s + DRAIN_MARGIN_S
    stop_requested.draining = True
    try:
        while stop_requested.draining and time.monotonic() < deadline:
            if ray.wait([drained], timeout=0.2)[0]:
                ray.get(drained)
                return
    except ray.exceptions.RayError as error:
        log.error("the sessions are not waited for: %s", error)
    finally:
        stop_requested.draining = False


def _get(reference: Any, stop_requested: StopRequest) -> Any:
    """``ray.get`` that a signal interrupts.

    Raises:
        RtviActorsError: the one that the actor raised.
        KeyboardInterrupt: a signal came first.
    """
    while True:
        done, _ = ray.wait([reference], timeout=0.2)
        if done:
            try:
                return ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, RtviActorsError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayActorError as error:
                raise RtviActorsError(f"the scheduler died while it started: {error}") from error
        if stop_requested.is_set():
            raise KeyboardInterrupt


def _stop(scheduler: Any, *, polite: bool) -> None:
    if polite:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(scheduler.stop.remote(), timeout=STOP_DEADLINE_S)
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(scheduler)


@contextlib.contextmanager
def _signals(stop_requested: StopRequest) -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop while the block runs; a second one gives up waiting."""
    before = _take_signals(stop_requested)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_signals(stop_requested: StopRequest) -> dict[signal.Signals, Any]:
    """Install the handlers; returns those that they replace. Only the main thread may, another does without."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, stop_requested.take) for number in (signal.SIGINT, signal.SIGTERM)}
