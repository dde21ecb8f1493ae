"""The app under Ray Serve, for KubeRay's RayService, which starts and watches applications of Serve.

It names ``rtvi_actors.cli.on_serve:build``. The only deployment there runs ``rtvi-actors serve FILE`` beside itself, says
whether the app is well, and drains it in the end. No conversation passes through Serve: clients connect to the edges. A replica
that is lost loses no conversation: the next one finds the app and goes on watching it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "rtvi_actors.cli.main")
START_DEADLINE_S = 600.0
"""Models are loaded in it."""
LOOK_DEADLINE_S = 10.0
STOP_DEADLINE_S = 40.0
DRAIN_MARGIN_S = 30.0


class Keeper:
    """Starts the app of ``file`` unless it runs, watches it, ends it.

    Args:
        file: its TOML.
        address: of Ray.
        look: the app as its scheduler knows it (``status``); None when none answers.
        program: the command line.

    Raises:
        RtviActorsError: the app did not start.
    """

    def __init__(
        self, file: str, address: str, look: Callable[[], dict[str, Any] | None], program: Sequence[str] = PROGRAM
    ) -> None:
        config = Config.load(file)
        self._of_app = ("--app", config.app.name, "--address", address)
        self._drain_s = config.scheduler.drain_timeout_s
        self._look = look
        self._program = tuple(program)
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        found = look()
        if found is not None and found["edges"] and not found["draining"]:
            log.warning("app %s runs already: it is watched", config.app.name)
            self.url = str(found["url"])
            return
        if found is not None:
            log.warning("app %s is being ended: another one is started", config.app.name)
            self._run("stop", deadline_s=STOP_DEADLINE_S)
        # A session of its own: Ray ends the processes of a replica that is lost, and this one is to go on.
        self._process = subprocess.Popen(
            [*program, "serve", file, *self._of_app],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.url = self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> str:
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put("")

        threading.Thread(target=read, name="output of serve", daemon=True).start()
        deadline = time.monotonic() + START_DEADLINE_S
        with contextlib.suppress(queue.Empty):
            while line := lines.get(timeout=max(deadline - time.monotonic(), 0)):
                if line.startswith("ready "):
                    return line.removeprefix("ready ").strip()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.kill()
        raise RtviActorsError(f"the app did not start: `rtvi-actors serve` ended with {process.wait()}; see what it said above")

    def check(self) -> None:
        """Return if the app is well.

        Raises:
            RtviActorsError: it is not.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RtviActorsError(f"the app has ended with {code}")
        found = self._look()
        if found is None or not found["edges"]:
            raise RtviActorsError("the app's scheduler does not answer" if found is None else "the app has no edge")

    def end(self) -> None:
        """Let nobody in, wait for the conversations as long as the configuration says, end the app."""
        if self._drain_s:
            self._run("drain", "--timeout", str(self._drain_s), deadline_s=self._drain_s + DRAIN_MARGIN_S)
        self._run("stop", deadline_s=STOP_DEADLINE_S)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_DEADLINE_S)
            self._process.kill()
            self._process.wait()

    def _run(self, *command: str, deadline_s: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*self._program, *command, *self._of_app], timeout=deadline_s, check=False)


class App:
    """The deployment. ``file``: the app's TOML, on every node."""

    def __init__(self, file: str) -> None:
        from rtvi_actors.cli.local_ray import ray

        name = Config.load(file).app.name

        def look() -> dict[str, Any] | None:
            try:
                scheduler = ray.get_actor(f"{name}/scheduler", namespace=name)
                found: dict[str, Any] = ray.get(scheduler.status.remote(), timeout=LOOK_DEADLINE_S)
            except (ValueError, ray.exceptions.RayError):
                return None
            return found

        self._keeper = Keeper(file, ray.get_runtime_context().gcs_address, look)

    def check_health(self) -> None:
        """Serve asks every few seconds, and starts another replica when it is told otherwise."""
        self._keeper.check()

    async def __call__(self, _request: Any) -> dict[str, str]:
        """What Serve's own port answers: where the first edge is, as far as this replica knows."""
        return {"edge": self._keeper.url}

    def __del__(self) -> None:
        """Serve calls it once, and waits ``graceful_shutdown_timeout_s`` for it."""
        if (keeper := self.__dict__.pop("_keeper", None)) is not None:
            keeper.end()


def build(arguments: dict[str, str]) -> Any:
    """The application of Serve. ``arguments``: ``{"file": path of the app's TOML}``.

    Serve's own extra must be installed: ``pip install 'rtvi_actors[serve]'``.
    """
    from ray import serve

    return serve.deployment(App, name="app").bind(arguments["file"])
