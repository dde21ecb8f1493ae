from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtvi_actors.cli import running
from rtvi_actors.cli.running import expect, find, forget, remember
from rtvi_actors.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "rtvi_actors" / "running"


def change(folder: Path, **fields: Any) -> Path:
    path = folder / "one.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def test_what_is_remembered_is_found_until_it_is_forgotten() -> None:
    assert find("one") is None
    remember("one", "127.0.0.1:6379", "http://127.0.0.1:7860")
    found = find("one")
    assert found is not None
    assert (found.app, found.address, found.url, found.pid) == ("one", "127.0.0.1:6379", "http://127.0.0.1:7860", os.getpid())
    assert expect("one") == found
    assert find("two") is None
    forget("one")
    assert find("one") is None
    forget("one")


def test_only_the_user_may_read_it(folder: Path) -> None:
    remember("one", "address", "url")
    assert stat.S_IMODE((folder / "one.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == ["one.json"]


def test_the_file_of_a_dead_process_is_removed(folder: Path) -> None:
    remember("one", "address", "url")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = change(folder, pid=ended.pid)
    assert find("one") is None
    assert not path.exists()


def test_a_later_process_of_the_same_pid_is_not_taken_for_it(folder: Path) -> None:
    remember("one", "address", "url")
    path = change(folder, started_at=1_000.0)
    assert find("one") is None
    assert not path.exists()


def test_another_process_s_app_is_not_forgotten(folder: Path) -> None:
    remember("one", "address", "url")
    process = running.psutil.Process(os.getppid())
    path = change(folder, pid=process.pid, started_at=process.create_time())
    forget("one")
    assert path.exists()
    assert find("one") is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"app": 1}'])
def test_a_damaged_file_is_no_app(folder: Path, content: str) -> None:
    remember("one", "address", "url")
    (folder / "one.json").write_text(content)
    assert find("one") is None
    remember("one", "address", "url")
    assert find("one") is not None


def test_expect_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'one'.*rtvi-actors serve.*--address"):
        expect("one")


def test_without_a_runtime_folder_the_cache_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember("one", "address", "url")
    assert (tmp_path / "cache/rtvi_actors/running/one.json").exists()
