"""The command line as a person meets it: what goes wrong is one line and exit code 2, what is started ends clean."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rtvi_actors.testing.client import RtviClient

pytestmark = pytest.mark.system

CLI = [sys.executable, "-m", "rtvi_actors.cli.main"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
DEADLINE_S = 120


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [*CLI, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=cwd,
        env=ENVIRONMENT | environment,
    )


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line on stderr that contains ``parts``, nothing on stdout, exit code 2."""
    [line] = done.stderr.splitlines()
    assert line.startswith("rtvi-actors: ")
    for part in parts:
        assert part in line
    assert done.stdout == ""
    assert done.returncode == 2


@pytest.fixture
def name() -> str:
    return f"cli-{secrets.token_hex(3)}"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process and no folder of sockets stays."""
    processes = {process.pid for process in psutil.Process().children(recursive=True)}
    folders = set(Path(tempfile.gettempdir()).glob("rtvi-*"))
    yield
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [process for process in psutil.Process().children(recursive=True) if process.pid not in processes]
        if not left:
            break
        time.sleep(0.05)
    assert left == []
    # Apps of others on this machine come and go with folders of their own: only one with nobody in it is a leak.
    new = [folder for folder in Path(tempfile.gettempdir()).glob("rtvi-*") if folder not in folders]
    assert [folder for folder in new if not _in_use(folder)] == []


def _in_use(folder: Path) -> bool:
    return str(folder) in Path("/proc/net/unix").read_text() or not any(folder.iterdir())


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[edge]\nprot = 1\n", ["edge.prot = 1", "allowed here", "port"]),
        ("[edge]\nport = 70000\n", ["edge.port = 70000"]),
        ("[edge]\nport = 'x'\n", ["edge.port = 'x'"]),
        ("[nothing]\n", ["nothing", "allowed here"]),
        ("[llm]\nbackend = 'nothing'\n", ["llm.backend", "nothing"]),
        ("no toml", ["not valid TOML"]),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, parts: list[str], name: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    refused(run("serve", str(path), "--app", name), *parts)


def test_a_missing_file(name: str) -> None:
    refused(run("serve", "nowhere.toml", "--app", name), "nowhere.toml", "No such file")


def test_a_wrong_app_name() -> None:
    refused(run("serve", "--app", "two words"), "app.name = 'two words'")


def test_models_that_are_not_prepared(tmp_path: Path, name: str) -> None:
    done = run("serve", "--app", name, "--port", "0", RTVI_ACTORS_MODELS=str(tmp_path))
    refused(done, "smollm2-135m-instruct", "vits-joe", "rtvi-actors models prepare")


@pytest.mark.parametrize(
    ("bot", "parts"),
    [
        ("nowhere:Bot", ["nowhere:Bot", "no module"]),
        ("rtvi_actors:Nothing", ["rtvi_actors:Nothing"]),
        ("rtvi_actors.config:Config", ["rtvi_actors.config:Config"]),
        ("no colon", ["no colon"]),
    ],
)
def test_a_bot_that_cannot_be_used(config_file: Any, bot: str, parts: list[str], name: str) -> None:
    refused(run("serve", config_file(), "--bot", bot, "--app", name, "--port", "0"), *parts)


def test_a_port_in_use(config_file: Any, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(run("serve", config_file(), "--port", port, "--app", name), port, "use", "--port")


def test_a_host_of_somebody_else(config_file: Any, name: str) -> None:
    refused(run("serve", config_file(), "--host", "192.0.2.1", "--app", name), "192.0.2.1", "--host")


def test_a_cluster_that_is_not_there(config_file: Any, name: str) -> None:
    refused(run("serve", config_file(), "--port", "0", "--address", "127.0.0.1:1", "--app", name), "127.0.0.1:1")


@pytest.mark.parametrize("command", ["status", "stop"])
def test_an_app_that_does_not_run(command: str, name: str) -> None:
    refused(run(command, "--app", name), name, "rtvi-actors serve")


def test_talk_without_anybody_there(tmp_path: Path) -> None:
    done = run("talk", "ws://127.0.0.1:1/ws", "--text", "hello", cwd=tmp_path)
    [line] = done.stderr.splitlines()
    assert "rtvi-actors serve" in line
    assert done.returncode == 1


def test_talk_with_nothing_to_say_or_a_file_that_is_none(tmp_path: Path) -> None:
    refused(run("talk", cwd=tmp_path), "--text")
    (tmp_path / "no.wav").write_bytes(b"nothing")
    refused(run("talk", "--wav", "no.wav", cwd=tmp_path), "no.wav")
    refused(run("talk", "--wav", "missing.wav", cwd=tmp_path), "missing.wav")


def test_a_backend_that_fails_to_load(tmp_path: Path, config_file: Any, name: str) -> None:
    (tmp_path / "voices.py").write_text(
        "from rtvi_actors.errors import ConfigError\n"
        "from rtvi_actors.testing.fakes import FakeTts\n"
        "class Broken(FakeTts):\n"
        "    def load(self):\n"
        "        raise ConfigError('tts.model = nobody: no such voice')\n"
    )
    done = run("serve", config_file(tts={"backend": "voices:Broken"}), "--port", "0", "--app", name, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "rtvi-actors: tts.model = nobody: no such voice"
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


# ----------------------------------------------------------------------------------------------------------------- help


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "stop", "status", "talk", "demo", "models"):
        assert command in done.stdout
    for command, options in {
        "serve": ["--bot", "--host", "--port", "--address", "--app"],
        "talk": ["--wav", "--text", "--say", "ws://127.0.0.1:7860/ws"],
        "status": ["--app", "--address", "--json", "--why", "--watch"],
        "stop": ["--app", "--address"],
    }.items():
        shown = run(command, "--help", COLUMNS="120").stdout
        for option in options:
            assert option in shown


# ---------------------------------------------------------------------------------------------------------- start and end


class Started:
    """``serve`` (or another program) that runs beside the test."""

    def __init__(self, command: list[str], cwd: Path, log: Path) -> None:
        self._errors = log.open("w")
        self._log = log
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=cwd, env=ENVIRONMENT)

    def line(self) -> str:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str, str]:
        """Wait for it. Gives exit code, the rest of stdout, and stderr."""
        assert self.process.stdout is not None
        code = self.process.wait(DEADLINE_S)
        rest = self.process.stdout.read()
        self.process.stdout.close()
        self._errors.close()
        return code, rest, self._log.read_text()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    running: list[Started] = []

    def start(command: list[str], cwd: Path = tmp_path) -> Started:
        running.append(Started(command, cwd, tmp_path / f"log-{len(running)}"))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.end()


def calm(stderr: str) -> None:
    """Nothing that frightens a reader."""
    for word in ("Traceback", "Error", "SIGTERM", "WARNING", "Warning", "*** ", "died"):
        assert word not in stderr, stderr


def test_a_signal_ends_the_start(started: Any, config_file: Any, name: str) -> None:
    serve = started([*CLI, "serve", config_file(), "--port", "0", "--app", name])
    process = psutil.Process(serve.process.pid)
    deadline = time.monotonic() + DEADLINE_S
    while not any("raylet" in child.name() for child in process.children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    serve.process.send_signal(signal.SIGINT)
    code, rest, stderr = serve.end()
    assert (code, rest) == (130, "")
    calm(stderr)


# ----------------------------------------------------------------------------------------------------------------- bots

GREETER = """
import rtvi_actors as ra


class Greeter(ra.Bot):
    async def on_start(self, session: ra.Session) -> None:
        await session.say("Good evening, how can I help?")

    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str | None:
        return "Breakfast is from seven to ten." if "breakfast" in turn.text.lower() else None
"""

SERVING = """

if __name__ == "__main__":
    config = ra.Config.load("app.toml")
    ra.serve(Greeter, config)
"""


async def converse(url: str) -> list[str]:
    """What the bot says at the start, to a question of its own, and to one for the model."""
    async with RtviClient(url.replace("http", "ws", 1) + "/ws", microphone=False) as client:
        await client.wait_type("bot-stopped-speaking")
        said = [_said(client, 0)]
        for text in ("When is breakfast?", "And dinner?"):
            utterance = client.send_text(text)
            await client.turn(utterance)
            said.append(client.heard(utterance).answer)
        return said


def _said(client: RtviClient, start: int) -> str:
    return " ".join(message.data["text"] for message in client.messages[start:] if message.type == "bot-tts-text")


def bot_answers(said: list[str]) -> None:
    assert said[0].strip() == "Good evening, how can I help?"
    assert said[1].strip() == "Breakfast is from seven to ten."
    assert "And dinner?" in said[2]


def test_a_bot_of_the_current_folder_until_stop(started: Any, config_file: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "greeter.py").write_text(GREETER)
    path = config_file()
    serve = started([*CLI, "serve", path, "--bot", "greeter:Greeter", "--port", "0", "--app", name])
    word, url = serve.line().split()
    assert word == "ready"
    assert url.startswith("http://127.0.0.1:")
    refused(run("serve", path, "--port", "0", "--app", name), name, url, "--app")
    bot_answers(asyncio.run(asyncio.wait_for(converse(url), DEADLINE_S)))
    asyncio.run(asyncio.wait_for(stopped_in_mid_sentence(url, name), DEADLINE_S))
    code, rest, stderr = serve.end()
    assert (code, rest) == (0, "")
    calm(stderr)
    refused(run("status", "--app", name), name)


async def stopped_in_mid_sentence(url: str, name: str) -> None:
    """Whoever talks is dismissed; ``stop`` returns when nothing runs any more."""
    async with RtviClient(url.replace("http", "ws", 1) + "/ws") as client:
        await client.wait_type("bot-started-speaking")
        stopped = await asyncio.to_thread(run, "stop", "--app", name)
        assert (stopped.returncode, stopped.stdout) == (0, f"stopped {name}\n")
        while not client.closed:
            await asyncio.sleep(0.01)


def test_a_bot_that_is_a_script(started: Any, config_file: Any, name: str, tmp_path: Path) -> None:
    (tmp_path / "my bot.py").write_text(GREETER + SERVING)
    path = Path(config_file(app={"name": name}, edge={"port": 0}))
    (tmp_path / "app.toml").write_text(path.read_text())
    script = started([sys.executable, "my bot.py"])
    url = script.line().split()[1]
    bot_answers(asyncio.run(asyncio.wait_for(converse(url), DEADLINE_S)))
    script.process.send_signal(signal.SIGINT)
    code, _, stderr = script.end()
    assert code == 0
    calm(stderr)


def test_a_script_that_cannot_be_served_says_why(name: str, tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(GREETER + SERVING)
    (tmp_path / "app.toml").write_text("[edge]\nprot = 1\n")
    done = subprocess.run([sys.executable, "bot.py"], check=False, capture_output=True, text=True, timeout=DEADLINE_S, cwd=tmp_path)
    assert "ConfigError: app.toml: unknown key edge.prot = 1" in done.stderr.splitlines()[-1]
    assert done.returncode == 1
