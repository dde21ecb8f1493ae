from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import rtvi_actors

pytestmark = pytest.mark.unit

HEAVY = ("ray", "torch", "numpy", "transformers", "TTS", "ctranslate2", "onnxruntime", "starlette", "soxr")


def loaded_after(program: str) -> set[str]:
    """Which of the heavy packages a fresh process has loaded after ``program``."""
    code = f"{program}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_what_is_public_is_sorted_and_can_be_imported() -> None:
    assert rtvi_actors.__all__ == sorted(rtvi_actors.__all__)
    for name in rtvi_actors.__all__:
        found = getattr(rtvi_actors, name)
        assert found.__name__ == name
        assert found is getattr(importlib.import_module(found.__module__), name)


def test_a_star_import_gives_exactly_what_is_public() -> None:
    names: dict[str, object] = {}
    exec("from rtvi_actors import *", names)
    assert set(names) - {"__builtins__"} == set(rtvi_actors.__all__)
    assert set(rtvi_actors._WHERE) == set(rtvi_actors.__all__)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"rtvi_actors.*no attribute 'Nope'"):
        rtvi_actors.Nope  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import rtvi_actors") == set()


def test_a_bot_s_file_loads_nothing_heavy() -> None:
    assert loaded_after("import rtvi_actors as ra\nra.Bot, ra.Session, ra.Turn, ra.Config, ra.serve, ra.RtviActorsError") == set()


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("rtvi_actors.runtime.stage_actor", set()),
        ("rtvi_actors.stt.stage", set()),
        ("rtvi_actors.llm.stage", set()),
        ("rtvi_actors.tts.stage", set()),
        ("rtvi_actors.speaking.stage", {"numpy", "onnxruntime", "soxr"}),
    ],
)
def test_a_stage_s_process_stays_small(module: str, allowed: set[str]) -> None:
    """Its memory is counted per session. Ray itself is loaded by Ray, not by us."""
    assert loaded_after(f"import {module}") <= allowed
