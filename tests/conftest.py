"""Fixtures for all tests: a local Ray, and watches for what a test leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import RtviActorsError
from rtvi_actors.testing import recordings
from rtvi_actors.testing.client import RtviClient

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

RAY_MODULES = Path(__file__).parent / "ray"
"""Importable in the workers of :func:`ray_local`, so that tests can host classes of their own in actors."""

RAY_TOKEN = secrets.token_hex(32)
"""One for the whole run: Ray reads it once in a process."""
LEAK_DEADLINE_S = 5.0


@pytest.fixture(scope="module")
def ray_local() -> Iterator[Any]:
    """Ray on this machine for a module: two cores, no dashboard, workers at ordinary niceness. Gives Ray's module."""
    settings = {
        "RAY_worker_niceness": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_AUTH_TOKEN": RAY_TOKEN,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(RAY_MODULES), os.environ.get("PYTHONPATH", "")])),
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    import ray

    ray.init(
        address="local",
        namespace="rtvi_actors_tests",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 1024 * 1024,
        log_to_driver=False,
    )
    yield ray
    ray.shutdown()
    for key, value in before.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value


@pytest.fixture
def no_new_processes() -> Iterator[None]:
    """Fails the test if it leaves a process behind: an actor, or a program that it started."""
    before = _processes()
    yield
    left = _wait_for_none(lambda: _new(_processes(), before))
    assert not left, f"left behind: {left}"


@pytest.fixture
async def no_new_fds() -> AsyncIterator[None]:
    """Fails the test if it leaves a file descriptor open."""
    before = _descriptors()
    yield
    left = await asyncio.to_thread(_wait_for_none, lambda: _new(_descriptors(), before))
    assert not left, f"left open: {left}"


Until = Callable[[Callable[[], Any]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """``await until(condition)``: wait until it is true, 10 s at most."""

    async def wait(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)

    return wait


class RunningApp:
    """``rtvi-actors serve`` in a process of its own, as a user starts it."""

    def __init__(self, process: subprocess.Popen[str], name: str, url: str, log: Path) -> None:
        self.process = process
        self.name = name
        self.url = url
        self.ws_url = url.replace("http", "ws", 1) + "/ws"
        self.log = log

    def status(self) -> dict[str, Any]:
        """What ``rtvi-actors status --json`` prints."""
        command = [*CLI, "status", "--json", "--app", self.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=_environment())
        facts: dict[str, Any] = json.loads(done.stdout)
        return facts

    def processes(self) -> dict[int, str]:
        """Pid -> title of all processes of the app, Ray's included."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = " ".join(process.cmdline())
        return found


def _environment() -> dict[str, str]:
    """That of a user's shell: without the token and the settings of :func:`ray_local`."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}


CLI = [sys.executable, "-m", "rtvi_actors.cli.main"]
READY_DEADLINE_S = 240.0


@contextlib.contextmanager
def _running_app(
    log: Path, *arguments: str, cwd: Path | None = None, enter: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> Iterator[RunningApp]:
    name = f"test-{os.getpid()}-{secrets.token_hex(2)}"
    command = [*enter, *CLI, "serve", *arguments, "--port", "0", "--app", name]
    environment = _environment() | dict(settings or {})
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=cwd, env=environment, process_group=0
        )
    try:
        yield RunningApp(process, name, _ready_url(process, log), log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _ready_url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    timer = threading.Timer(READY_DEADLINE_S, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
    finally:
        timer.cancel()
        timer.join()
    raise AssertionError(f"the app did not become ready:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app with real models, for all tests of a module, which do not break it.

    Its configuration is the default one but for shorter answers: tests wait until they are spoken, 5 s each instead of 14.
    """
    folder = tmp_path_factory.mktemp("app")
    (folder / "app.toml").write_text("[llm]\nmax_tokens = 24\n")
    with _running_app(folder / "serve.log", str(folder / "app.toml")) as running:
        yield running


@pytest.fixture(scope="module")
def app_url(app: RunningApp) -> str:
    """Its address."""
    return app.url


@pytest.fixture(scope="session")
def start_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., contextlib.AbstractContextManager[RunningApp]]:
    """Starts another app: ``with start_app("my.toml") as running``.

    ``enter``: what comes before the command; ``settings``: what its environment has besides.
    """

    def start(*arguments: str, **options: Any) -> contextlib.AbstractContextManager[RunningApp]:
        return _running_app(tmp_path_factory.mktemp("app") / "serve.log", *arguments, **options)

    return start


def _wait_for_none(left: Callable[[], dict[int, str]]) -> dict[int, str]:
    deadline = time.monotonic() + LEAK_DEADLINE_S
    while (found := left()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _new(now: dict[int, str], before: dict[int, str]) -> dict[int, str]:
    return {number: what for number, what in now.items() if before.get(number) != what}


def _processes() -> dict[int, str]:
    """Pid -> name of the actors and other programs below this process; Ray's own processes come and go as they like."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command, status = " ".join(process.cmdline()), process.status()
        except psutil.NoSuchProcess:
            continue
        ours = command.startswith("ray::") and not command.startswith("ray::IDLE")
        if ours or ("/ray/" not in command and not command.startswith("ray::")):
            found[process.pid] = f"{command} ({status})"
    return found


def _descriptors() -> dict[int, str]:
    """Number -> what it is, of the open file descriptors."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the one that listdir used
    return found


CLUSTERS = Path(__file__).parents[1] / "clusters"
FAKES = {
    "stt": {"backend": "rtvi_actors.testing.fakes:FakeStt"},
    "llm": {"backend": "rtvi_actors.testing.fakes:FakeLlm"},
    "tts": {"backend": "rtvi_actors.testing.fakes:FakeTts"},
}
DEADLINE_S = 60.0
"""For anything that has to happen at all, on a loaded machine."""

ConfigFile = Callable[..., str]
Eventually = Callable[..., Awaitable[Any]]


def _toml(sections: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """JSON writes plain values in the same way."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml_value(each)}' for key, each in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> ConfigFile:
    """``config_file(scheduler={...}, profile="dense.toml")``: path of a file with fake models and these keys."""

    def write(profile: str | None = None, **sections: dict[str, Any]) -> str:
        base = tomllib.loads((CLUSTERS / profile).read_text()) if profile else {}
        merged = {
            name: {**base.get(name, {}), **FAKES.get(name, {}), **sections.get(name, {})} for name in {**base, **FAKES, **sections}
        }
        path = tmp_path_factory.mktemp("config") / "app.toml"
        path.write_text(_toml(merged))
        return str(path)

    return write


@pytest.fixture
def eventually() -> Eventually:
    """``await eventually(condition)``: wait until it gives something true, and return that. May be a coroutine function."""

    async def wait(condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S) -> Any:
        deadline = time.monotonic() + deadline_s
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what or condition}"
            await asyncio.sleep(0.05)

    return wait


@contextlib.asynccontextmanager
async def _connected(url: str, **options: Any) -> AsyncIterator[RtviClient]:
    deadline = time.monotonic() + DEADLINE_S
    options = {"microphone": False, **options}
    while True:
        client = RtviClient(url, **options)
        try:
            await client.__aenter__()
            break
        except RtviActorsError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def connected() -> Callable[..., contextlib.AbstractAsyncContextManager[RtviClient]]:
    """``async with connected(ws_url) as client``: a session, as soon as there is a place. Without microphone unless asked."""
    return _connected


@pytest.fixture
def answered() -> Callable[..., Awaitable[str]]:
    """``await answered(client, "text")``: type it; the fake model's answer to it, once its voice is heard. Not to its end."""

    async def ask(client: RtviClient, text: str) -> str:
        utterance = client.send_text(text)

        def now(*kinds: str) -> Awaitable[Any]:
            return client.wait(lambda received: received.type in kinds, DEADLINE_S, utterance.first_message)

        await now("bot-llm-started")
        await now("bot-llm-stopped")
        await now("bot-started-speaking")
        answer = client.heard(utterance).answer
        assert text in answer
        return answer

    return ask


@pytest.fixture
def serves(connected: Any, answered: Any) -> Callable[[str], Awaitable[None]]:
    """``await serves(ws_url)``: a new client is admitted and answered."""

    async def check(url: str) -> None:
        async with connected(url) as client:
            await answered(client, "are you there")

    return check


@pytest.fixture(scope="session")
def utterances() -> list[recordings.Recording]:
    """Human speech, shortest first; synthesized where the recordings are not installed."""
    found = recordings.recorded("librivox") if recordings.available() else asyncio.run(recordings.synthesized(Config()))
    return sorted(found, key=lambda recording: recording.duration_ms)


class ChatEndpoint:
    """An OpenAI-compatible endpoint in a thread, with the real weights of our own CTranslate2 backend."""

    KEY = "sk-of-the-tests"

    def __init__(self) -> None:
        from rtvi_actors.config import Config
        from rtvi_actors.llm.ctranslate2 import CTranslate2Llm

        self.bodies: list[dict[str, Any]] = []
        """Of the requests, in order."""
        self.running = self.cancelled = 0
        self.hold = False
        """It takes requests, and does not begin to answer."""
        self.broken = False
        self._llm = CTranslate2Llm(Config())
        self._llm.load()

    @contextlib.contextmanager
    def serving(self) -> Iterator[ChatEndpoint]:
        """The endpoint while the block runs; its address is ``url``."""
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import Route

        server = uvicorn.Server(
            uvicorn.Config(
                Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])]), port=0, log_level="error"
            )
        )
        thread = threading.Thread(target=server.run, name="chat-endpoint")
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the endpoint did not start"
                time.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
            yield self
        finally:
            server.should_exit = True
            thread.join(20)
            self._llm.close()

    async def _chat(self, request: Request) -> Response:
        from starlette.responses import JSONResponse, StreamingResponse

        body = await request.json()
        self.bodies.append(body)
        if request.headers.get("authorization") != f"Bearer {self.KEY}":
            return JSONResponse({"error": {"message": "Incorrect API key provided"}}, 401)
        if self.broken:
            return JSONResponse({"error": {"message": "out of order"}}, 500)
        if body["model"] != "smollm2":
            return JSONResponse({"error": {"message": f"The model {body['model']!r} does not exist"}}, 404)
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        from rtvi_actors.llm.engine import ChatMessage, LlmPiece, LlmRequest

        messages = [ChatMessage(message["role"], message["content"]) for message in body["messages"]]
        last = LlmPiece("", 0)
        self.running += 1
        try:
            while self.hold:
                await asyncio.sleep(0.01)
            pieces = self._llm.stream("s", LlmRequest(messages, body["max_tokens"], body["temperature"]))
            async with contextlib.aclosing(pieces):
                async for last in pieces:
                    choice = {"index": 0, "delta": {"content": last.text}, "finish_reason": last.finish_reason or None}
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            usage = {"prompt_tokens": last.prompt_tokens, "completion_tokens": last.completion_tokens}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def chat_endpoint() -> Iterator[ChatEndpoint]:
    """A real OpenAI-compatible endpoint. It wants ``chat_endpoint.KEY`` and has the model ``smollm2``."""
    with ChatEndpoint().serving() as endpoint:
        yield endpoint
