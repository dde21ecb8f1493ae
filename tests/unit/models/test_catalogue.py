from __future__ import annotations

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError
from rtvi_actors.models.catalogue import CATALOGUE, find, needed_by, select

pytestmark = pytest.mark.unit


def test_the_default_configuration_needs_models_of_the_catalogue() -> None:
    needed = needed_by(Config())
    assert needed == {"stt": "whisper-tiny.en", "llm": "smollm2-135m-instruct-openvino", "tts": "vits-joe"}
    for kind, name in needed.items():
        model = find(name)
        assert model is not None
        assert model.kind == kind


def test_what_is_needed_depends_on_the_backends() -> None:
    config = Config().replace(
        stt={"backend": "mine:Stt"}, llm={"backend": "transformers"}, tts={"backend": "coqui", "model": "/voices/mine"}
    )
    assert needed_by(config) == {"llm": "smollm2-135m-instruct", "tts": "/voices/mine"}
    alternates = Config().replace(
        stt={"model": "whisper-base"},
        llm={"backend": "openai", "base_url": "http://host/v1", "model": "vits-joe"},
        tts={"backend": "hibari", "model": "hibari-heart"},
    )
    assert needed_by(alternates) == {"stt": "whisper-base", "tts": "hibari-heart"}
    own_llm = Config().replace(llm={"model": "/models/mine"})
    assert needed_by(own_llm)["llm"] == "/models/mine"


def test_select_adds_what_a_model_is_made_from_before_it() -> None:
    assert [model.name for model in select(["smollm2-135m-instruct-ct2-int8"])] == [
        "smollm2-135m-instruct",
        "smollm2-135m-instruct-ct2-int8",
    ]
    assert [model.name for model in select([])] == [model.name for model in CATALOGUE if not model.on_demand]


def test_the_default_configuration_needs_nothing_that_is_on_demand() -> None:
    assert set(needed_by(Config()).values()) <= {model.name for model in select([])}


def test_select_names_the_models_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'whisper'; there are: whisper-tiny\.en, .*vits-joe"):
        select(["vits-joe", "whisper"])


def test_made_from_comes_earlier_in_the_catalogue() -> None:
    seen: set[str] = set()
    for model in CATALOGUE:
        assert not model.made_from or model.made_from in seen
        seen.add(model.name)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (
            {"tts": {"backend": "hibari"}},
            "tts.model = 'vits-joe' is not made for tts.backend = 'hibari'; for it there is: hibari-heart,",
        ),
        ({"tts": {"model": "hibari-heart"}}, "is not made for tts.backend = 'coqui'; for it there is: vits-joe, or a folder"),
        ({"stt": {"model": "vits-joe"}}, "stt.model = 'vits-joe' .* there is: whisper-tiny.en, whisper-base, or a folder"),
        ({"llm": {"backend": "transformers", "model": "smollm2-135m-instruct-ct2-int8"}}, "there is: smollm2-135m-instruct, or"),
    ],
)
def test_a_model_of_another_backend_is_refused(section: dict[str, dict[str, str]], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        needed_by(Config().replace(**section))


def test_every_model_has_a_backend() -> None:
    assert all(model.backends for model in CATALOGUE)
