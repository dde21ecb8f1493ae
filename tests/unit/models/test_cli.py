from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtvi_actors.cli.models import app
from rtvi_actors.errors import ConfigError
from rtvi_actors.models.catalogue import CATALOGUE, Model

pytestmark = pytest.mark.unit


def test_list_shows_every_model_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "a.toml"
    config.write_text(f'models_dir = "{tmp_path / "none"}"\n')
    monkeypatch.setattr(Model, "package_folder", lambda self: None)
    result = CliRunner().invoke(app, ["list", "--config", str(config)])
    assert result.exit_code == 0, result.output
    for model in CATALOGUE:
        assert model.name in result.output
        assert model.licence in result.output
    assert result.output.count("(not installed)") == len(CATALOGUE)
    assert "run `rtvi-actors models prepare`" in result.output


def test_prepare_refuses_an_unknown_name(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(f'models_dir = "{tmp_path}"\n')
    result = CliRunner().invoke(app, ["prepare", "nix", "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert "unknown model 'nix'" in str(result.exception)
