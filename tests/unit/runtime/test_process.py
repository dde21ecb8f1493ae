"""What an actor's process does about itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rtvi_actors.errors import ConfigError
from rtvi_actors.observe.figures import KINDS
from rtvi_actors.runtime import process

pytestmark = pytest.mark.unit


def test_loads_a_class_by_name() -> None:
    assert process.load_class("pathlib:Path", "bot.class") is Path


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "bot.class = '': must be module:Class"),
        ("pathlib", "must be module:Class"),
        ("pathlib:", "must be module:Class"),
        ("no_such_module:Bot", "cannot import no_such_module: No module named 'no_such_module'"),
        ("pathlib:NoSuchClass", "pathlib has no class NoSuchClass"),
        ("os:getpid", "os has no class getpid"),
    ],
)
def test_a_wrong_name_is_a_configuration_error(spec: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        process.load_class(spec, "bot.class")
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"bot.class = {spec!r}")


def test_usage_is_that_of_this_process() -> None:
    usage = process.usage()
    memory_bytes, cpu_s = usage["memory_bytes"], usage["cpu_s"]
    assert isinstance(memory_bytes, (int, float))
    assert isinstance(cpu_s, (int, float))
    assert 10e6 < memory_bytes < 10e9
    assert cpu_s > 0
    assert set(usage) < set(KINDS)


def run(code: str) -> str:
    """What ``python -c code`` prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout


def test_limits_threads_and_sets_the_niceness_of_all_threads() -> None:
    code = """
import json, os, threading
from rtvi_actors.runtime import process
process.limit_threads(3)
done = threading.Event()
ready = threading.Event()
thread = threading.Thread(target=lambda: (ready.set(), done.wait()))
thread.start()
ready.wait()
reached = process.set_niceness(7)
each = [os.getpriority(os.PRIO_PROCESS, int(tid)) for tid in os.listdir("/proc/self/task")]
done.set()
print(json.dumps([reached, each, [os.environ[name] for name in process.THREAD_VARIABLES]]))
"""
    reached, each, threads = json.loads(run(code))
    assert reached == 7
    assert len(each) >= 2
    assert set(each) == {7}
    assert threads == ["3", "3", "3"]


def test_a_stage_process_imports_nothing_heavy() -> None:
    code = """
import json, sys
import rtvi_actors.runtime.stage_actor, rtvi_actors.engines.pool
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    heavy = {
        "ray",
        "numpy",
        "torch",
        "starlette",
        "uvicorn",
        "pydantic",
        "aiohttp",
        "psutil",
        "ctranslate2",
        "openvino",
        "transformers",
        "rich",
    }
    assert heavy.isdisjoint(json.loads(run(code)))
