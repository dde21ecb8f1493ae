"""An end-of-turn model of the application's: found, made, asked, and not trusted."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rtvi_actors.cli import serve
from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, ModelMissingError
from rtvi_actors.speaking.end_of_turn import MAX_WAITING, Judge, load_model, model_class
from rtvi_actors.speaking.events import AskEnd

pytestmark = pytest.mark.unit

QUESTION = AskEnd(1, 1, "What is it?", "en", (320,))


class Model:
    """Answers what it is told to."""

    def __init__(self, answer: Callable[[], Any] = lambda: 0.5) -> None:
        self.answer = answer
        self.threads: set[str] = set()
        self.asked: list[tuple[str, str, tuple[int, ...]]] = []

    def finished(self, text: str, language: str, pauses_ms: tuple[int, ...]) -> Any:
        self.threads.add(threading.current_thread().name)
        self.asked.append((text, language, pauses_ms))
        return self.answer()


def failing() -> float:
    raise RuntimeError("out of memory")


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    module = types.ModuleType("my_models")
    sys.modules["my_models"] = module
    yield module
    del sys.modules["my_models"]


def config(spec: str) -> Config:
    return Config().replace(speaking={"endpointing": spec})


async def verdicts(model: Model, count: int = 1) -> list[float | None]:
    judge, found = Judge(model), []
    for _ in range(count):
        judge.ask(QUESTION, found.append)
    async with asyncio.timeout(10):
        while len(found) < count:
            await asyncio.sleep(0.001)
    judge.close()
    return found


async def test_it_is_asked_on_a_thread_of_its_own() -> None:
    model = Model()
    assert await verdicts(model, 3) == [0.5, 0.5, 0.5]
    assert model.asked == 3 * [("What is it?", "en", (320,))]
    assert model.threads == {"end of turn"}


@pytest.mark.parametrize("answer", [failing, lambda: 1.5, lambda: -0.1, lambda: float("nan"), lambda: None, lambda: "yes"])
async def test_what_is_no_probability_is_left_to_the_rules(answer: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert await verdicts(Model(answer), 3) == [None, None, None]
    assert len(caplog.records) == 1, "it complains once"
    assert "the rules judge instead" in caplog.text


async def test_questions_that_wait_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    go, found = threading.Event(), []
    judge = Judge(Model(lambda: float(go.wait(10))))
    for _ in range(MAX_WAITING + 10):
        judge.ask(QUESTION, found.append)
    await asyncio.sleep(0)
    assert set(found) == {None}
    assert 9 <= len(found) <= 10
    judge.close()
    go.set()


def test_rules_are_no_model() -> None:
    assert load_model(Config()) is None


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("wise", "must be rules or module:Class"),
        (":Class", "must be rules or module:Class"),
        ("nowhere.at_all:Class", "cannot import nowhere.at_all"),
        ("my_models:Missing", "has no class Missing"),
        ("my_models:Mute", "has no method finished"),
        ("my_models:Broken", "cannot be made: RuntimeError: no weights"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(module: Any, spec: str, why: str) -> None:
    class Broken(Model):
        def __init__(self, config: Config) -> None:
            raise RuntimeError("no weights")

    module.Mute, module.Broken = type("Mute", (), {}), Broken
    with pytest.raises(ConfigError) as error:
        load_model(config(spec))
    assert why in str(error.value)
    assert "speaking.endpointing" in str(error.value)
    assert spec in str(error.value)


def test_serve_refuses_it_before_anything_is_started(module: Any) -> None:
    module.Mute = type("Mute", (), {})
    with pytest.raises(ConfigError, match="has no method finished"):
        serve.check(config("my_models:Mute"))


def test_an_error_of_its_own_is_kept(module: Any) -> None:
    class Missing(Model):
        def __init__(self, config: Config) -> None:
            raise ModelMissingError("prepare it first")

    module.Missing = Missing
    with pytest.raises(ModelMissingError, match="prepare it first"):
        load_model(config("my_models:Missing"))


def test_it_gets_the_configuration(module: Any) -> None:
    class Mine(Model):
        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config = config

    module.Mine = Mine
    model: Any = load_model(config("my_models:Mine"))
    assert model_class("my_models:Mine") is Mine
    assert model.config.speaking.endpointing == "my_models:Mine"
