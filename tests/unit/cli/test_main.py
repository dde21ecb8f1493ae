"""The command line: what its flags become, and how it ends when something is wrong. Nothing is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rtvi_actors.cli import demo, main, serve, status, talk
from rtvi_actors.config import Config
from rtvi_actors.errors import CapacityError, ConfigError, ModelMissingError, RtviActorsError

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """What the commands were asked to do."""

    def record(self, name: str) -> Any:
        return lambda *args, **kwargs: self.append((name, args, kwargs))

    def record_async(self, name: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> None:
            self.append((name, args, kwargs))

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found = Calls()
    monkeypatch.setattr(serve, "run", found.record("serve"))
    monkeypatch.setattr(demo, "run", found.record("demo"))
    monkeypatch.setattr(status, "status", found.record("status"))
    monkeypatch.setattr(status, "stop", found.record("stop"))
    monkeypatch.setattr(talk, "talk", found.record_async("talk"))
    return found


def invoke(*arguments: str) -> None:
    result = CliRunner().invoke(main.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_serve_without_anything_is_the_laptop_profile(calls: Calls) -> None:
    invoke("serve")
    assert calls == [("serve", (Config(),), {"address": None})]


def test_flags_of_serve_go_over_the_file(calls: Calls, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[edge]\nport = 1\nlead_ms = 100\n[app]\nname = "file"\n[bot]\nclass = "a:B"\n')
    flags = ("--port", "8000", "--host", "::1", "--bot", "bots:Mine", "--app", "flag", "--address", "10.0.0.1:6379")
    invoke("serve", str(file), *flags)
    [(_, (config,), options)] = calls
    assert (config.edge.port, config.edge.host, config.edge.lead_ms) == (8000, "::1", 100)
    assert (config.bot.class_, config.app.name) == ("bots:Mine", "flag")
    assert options == {"address": "10.0.0.1:6379"}


def test_port_0_is_a_port(calls: Calls) -> None:
    invoke("serve", "--port", "0")
    invoke("demo", "--port", "0", "--once")
    assert [args[0].edge.port for _, args, _ in calls] == [0, 0]
    assert calls[1][2]["once"] is True


def test_the_demo_is_the_default_configuration_with_a_calm_log(calls: Calls) -> None:
    invoke("demo")
    [(_, (config,), options)] = calls
    assert config == Config().replace(app={"log_level": "warning"})
    assert options == {"once": False, "save": Path("demo-audio")}


def test_talk_takes_several_of_each(calls: Calls) -> None:
    invoke("talk", "--wav", "a.wav", "--wav", "b.wav", "--text", "hello", "--say", "bye")
    invoke("talk", "ws://other/ws", "--text", "x", "--save", "folder")
    first, second = calls
    assert first[1] == ("ws://127.0.0.1:7860/ws",)
    assert first[2] == {
        "wav": [Path("a.wav"), Path("b.wav")],
        "text": ["hello"],
        "say": ["bye"],
        "save": Path("talk-audio"),
    }
    assert second[1] == ("ws://other/ws",)
    assert second[2]["save"] == Path("folder")


def test_status_and_stop_name_the_app(calls: Calls) -> None:
    invoke("status")
    invoke("status", "--app", "mine", "--address", "there", "--json")
    invoke("status", "--why", "--watch")
    invoke("stop", "--app", "mine")
    assert calls == [
        ("status", ("rtvi_actors", None), {"as_json": False, "why": False, "watch": False}),
        ("status", ("mine", "there"), {"as_json": True, "why": False, "watch": False}),
        ("status", ("rtvi_actors", None), {"as_json": False, "why": True, "watch": True}),
        ("stop", ("mine", None), {}),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("port 7860 is in use"), 2),
        (ModelMissingError("models not prepared: vits-joe"), 2),
        (CapacityError("all places are taken"), 1),
        (RtviActorsError("the scheduler died"), 1),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: RtviActorsError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(serve, "run", run)
    monkeypatch.setattr(sys, "argv", ["rtvi-actors", "serve"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == code
    captured = capsys.readouterr()
    assert captured.err == f"rtvi-actors: {error}\n"
    assert captured.out == ""


def test_a_wrong_value_and_a_wrong_file_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in ((["--port", "70000"], "edge.port = 70000"), (["nowhere.toml"], "nowhere.toml: cannot be read")):
        monkeypatch.setattr(sys, "argv", ["rtvi-actors", "serve", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert complaint in line


def test_help_needs_neither_ray_nor_a_model() -> None:
    program = (
        "import sys; sys.argv = ['rtvi-actors', '--help']\n"
        "from rtvi_actors.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print(sorted({'ray', 'torch', 'numpy', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    for command in ("serve", "stop", "status", "talk", "demo", "models"):
        assert any(line.split()[:1] == [command] for line in lines), command
