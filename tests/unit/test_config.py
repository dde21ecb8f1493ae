"""The configuration: defaults, files, and errors that name key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtvi_actors.config import Config, runtime_folder
from rtvi_actors.errors import ConfigError

pytestmark = pytest.mark.unit

CLUSTERS = Path(__file__).parents[2] / "clusters"


def test_laptop_profile_writes_out_the_defaults() -> None:
    import tomllib

    written = tomllib.loads((CLUSTERS / "laptop.toml").read_text(encoding="utf-8"))
    assert written == Config().to_dict()


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.toml")), ids=lambda path: path.name)
def test_every_profile_loads(path: Path) -> None:
    assert Config.load(path).scheduler.max_sessions >= 1


def test_what_crosses_to_the_actors_comes_back_the_same() -> None:
    config = Config().replace(llm={"max_tokens": 7}, bot={"class": "module:Class"})
    assert Config.from_dict(config.to_dict()) == config
    assert config.bot.class_ == "module:Class"


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"llm": {"max_token": 3}}, ["llm.max_token = 3", "allowed here", "max_tokens"]),
        ({"edgee": {}}, ["edgee", "allowed here", "edge"]),
        ({"llm": {"max_tokens": "x"}}, ["llm.max_tokens = 'x'", "int"]),
        ({"stt": {"replicas": 65}}, ["stt.replicas = 65", "<= 64"]),
        ({"tts": {"max_batch": 4}}, ["tts.max_batch = 4", "<= 1"]),
        ({"bots": {"shop": 3}}, ["bots = {'shop': 3}", "str"]),
        ({"bots": {"a shop": "m:C"}}, ["a shop", "A-Za-z"]),
        ({"edge": {"public_url": "voice.example.org"}}, ["edge.public_url = 'voice.example.org'", "https"]),
        ({"scheduler": {"warm_groups": 0}}, ["scheduler.warm_groups = 0", ">= 1"]),
        ({"edge": {"port": 70_000}}, ["edge.port = 70000", "65535"]),
        ({"speaking": {"short_wait_ms": 900}}, ["speaking.short_wait_ms = 900", "speaking.middle_wait_ms = 600"]),
        ({"scheduler": {"sessions_per_group": 2, "warm_groups": 1}}, ["max_sessions = 4", "= 2"]),
        ({"stt": {"language": "german!"}}, ["stt.language = 'german!'", "auto"]),
        ({"llm": {"backend": "openai"}}, ["llm.base_url = ''", "http://", "for instance"]),
        ({"llm": {"backend": "openai", "base_url": "ftp://host/v1"}}, ["llm.base_url = 'ftp://host/v1'"]),
        ({"llm": {"backend": "openai", "base_url": "http:///v1"}}, ["llm.base_url = 'http:///v1'"]),
        ({"llm": {"backend": "openai", "base_url": "http://host:port/v1"}}, ["llm.base_url = 'http://host:port/v1'"]),
    ],
)
def test_an_error_names_key_value_and_what_is_allowed(data: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        Config.from_dict(data, source="my.toml")
    text = str(error.value)
    assert text.startswith("my.toml: ")
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        Config.load(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[llm\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Config.load(broken)


def test_the_runtime_folder_is_for_the_user_alone() -> None:
    folder = runtime_folder()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) < 80
    finally:
        folder.rmdir()


@pytest.mark.parametrize(
    "llm",
    [
        {"api_key": "sk-SECRET"},
        {"api_key_env": "sk-SECRET"},
        {"backend": "openai", "base_url": "https://user:sk-SECRET@host/v1"},
        {"backend": "openai", "base_url": "https://host/v1?key=sk-SECRET"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(llm: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"llm\.(api_key|base_url)") as error:
        Config.from_dict({"llm": llm})
    assert "SECRET" not in str(error.value)


def test_the_key_is_read_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config().replace(llm={"api_key_env": "MY_KEY"})
    monkeypatch.delenv("MY_KEY", raising=False)
    assert config.llm_api_key() == ""
    monkeypatch.setenv("MY_KEY", " secret\n")
    assert config.llm_api_key() == "secret"
    assert "secret" not in repr(config)
    assert Config().replace(llm={"api_key_env": ""}).llm_api_key() == ""
    monkeypatch.setenv("MY_KEY", "se\ncret")
    with pytest.raises(ConfigError, match="MY_KEY") as error:
        config.llm_api_key()
    assert "cret" not in str(error.value)
