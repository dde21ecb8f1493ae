from __future__ import annotations

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.models.catalogue import CATALOGUE, find, needed_by, select

pytestmark = pytest.mark.unit


def test_the_default_configuration_needs_models_of_the_catalogue() -> None:
    needed = needed_by(Config())
    assert needed == {"stt": "whisper-tiny.en", "llm": "smollm2-135m-instruct-ct2-int8", "tts": "vits-joe"}
    for kind, name in needed.items():
        model = find(name)
        assert model is not None
        assert model.kind == kind


def test_what_is_needed_depends_on_the_backends() -> None:
    config = Config().replace(
        stt={"backend": "mine:Stt"}, llm={"backend": "transformers"}, tts={"backend": "coqui", "model": "/voices/mine"}
    )
    assert needed_by(config) == {"llm": "smollm2-135m-instruct", "tts": "/voices/mine"}
    own_llm = Config().replace(llm={"model": "/models/mine"})
    assert needed_by(own_llm)["llm"] == "/models/mine"


def test_select_adds_what_a_model_is_made_from_before_it() -> None:
    assert [model.name for model in select(["smollm2-135m-instruct-ct2-int8"])] == [
        "smollm2-135m-instruct",
        "smollm2-135m-instruct-ct2-int8",
    ]
    assert select([]) == list(CATALOGUE)


def test_select_names_the_models_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'whisper'; there are: whisper-tiny\.en, .*vits-joe"):
        select(["vits-joe", "whisper"])


def test_made_from_comes_earlier_in_the_catalogue() -> None:
    seen: set[str] = set()
    for model in CATALOGUE:
        assert not model.made_from or model.made_from in seen
        seen.add(model.name)
