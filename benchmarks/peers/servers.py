"""The peers as running servers, each with its language model's server beside it, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from llm_server import MODEL
from load import MAX_TOKENS
from set_up import ENVIRONMENT, FOLDER, PYTHON

from rtvi_actors.bot import Bot
from rtvi_actors.config import Config
from rtvi_actors.models.prepare import path_of

READY_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0
WEIGHTS = "smollm2-135m-instruct"
"""The weights as transformers reads them."""


@contextlib.contextmanager
def off_the_shelf() -> Iterator[str]:
    """Pipecat as it comes, its language model on ``transformers serve``: the URL.

    Raises:
        RuntimeError: a server ended or was not ready within 120 s; has the end of what it said.
    """
    port, weights = _free_port(), str(path_of(WEIGHTS, Config()))
    serve = [str(ENVIRONMENT / "bin" / "transformers"), "serve", weights, "--host", "127.0.0.1", "--port", str(port)]
    with _running(serve, port) as llm, _bot(llm, weights) as url:
        yield url


@contextlib.contextmanager
def tuned() -> Iterator[str]:
    """Pipecat with our wait, our language model behind an OpenAI-compatible server: the URL. Raises as :func:`off_the_shelf`."""
    port = _free_port()
    with (
        _running([sys.executable, str(FOLDER / "llm_server.py"), "--port", str(port)], port) as llm,
        _bot(llm, MODEL, "--tuned") as url,
    ):
        yield url


def _bot(llm: str, model: str, *more: str) -> contextlib.AbstractContextManager[str]:
    port = _free_port()
    penalty = Config().llm.repetition_penalty - 1  # what transformers' server adds to 1
    what = ["--llm-url", f"{llm}/v1", "--llm-model", model, "--frequency-penalty", f"{penalty:g}"]
    words = ["--instructions", Bot.instructions, "--max-tokens", str(MAX_TOKENS)]
    return _running([str(PYTHON), str(FOLDER / "bot.py"), "--port", str(port), *what, *words, *more], port)


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[str]:
    """``command``, from when its ``/health`` answers until the block ends: its URL."""
    url = f"http://127.0.0.1:{port}"
    # Pipecat logs each frame of interest at its default level; that would cost it time.
    environment = {**os.environ, "LOGURU_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0)
        try:
            if not _ready(process, url):
                raise RuntimeError(f"{Path(command[0]).name} {Path(command[1]).name} did not become ready:\n{_tail(log.fileno())}")
            yield url
            if process.poll() is not None:
                raise RuntimeError(f"{Path(command[1]).name} ended with {process.returncode}:\n{_tail(log.fileno())}")
        finally:
            _stop(process)


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2.0).is_success:
                return True
        time.sleep(0.3)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_DEADLINE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: int, most_bytes: int = 2_000) -> str:
    size = os.fstat(log).st_size
    return os.pread(log, most_bytes, max(0, size - most_bytes)).decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
