"""Prepared models: where they are, whether they are whole, and making them.

``rtvi-actors models prepare`` calls :func:`prepare`; the engines call :func:`path_of`; ``serve`` calls :func:`missing` before it
starts anything. Importing this costs nothing: conversions run in a process of their own (see convert.py).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rtvi_actors.config import Config
from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models import manifest
from rtvi_actors.models.catalogue import Model, find, needed_by, select
from rtvi_actors.models.conversion import run_conversion

Report = Callable[[str, float, str], None]
"""Called with the name of a model, how much of it is done (0 to 1) and what is being done."""

LOCK_DEADLINE_S = 600.0
_LOCK_FILE = ".lock"


def path_of(name: str, config: Config) -> Path:
    """The folder to load the model ``name`` from: a name of the catalogue, or a folder.

    Raises:
        ModelMissingError: it is not prepared, its package is not installed, or there is no such model; says what to run.
    """
    model = find(name)
    if model is None:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        raise ModelMissingError(f"{name!r} is neither a model of `rtvi-actors models list` nor a folder")
    if not model.prepared:
        model.source_paths()
        return _package_folder(model)
    folder = config.models_path() / model.name
    problem = manifest.problem(model, folder)
    if problem:
        raise ModelMissingError(f"model {name} in {folder}: {problem}: run `{command([name])}`")
    return folder


def missing(config: Config) -> list[str]:
    """Names of the models that the configured engines need and that cannot be loaded. Quick: sizes only."""
    absent = []
    for name in needed_by(config).values():
        try:
            path_of(name, config)
        except ModelMissingError:
            absent.append(name)
    return absent


def command(names: list[str]) -> str:
    """What to run to prepare the models ``names``."""
    models = [model for name in names if (model := find(name)) is not None]
    named = [model.name for model in models] if any(model.on_demand for model in models) else []
    return " ".join(["rtvi-actors models prepare", *named])


def prepare(names: list[str], models_path: Path, report: Report, *, verify: bool = False) -> None:
    """Make the named models ready to load, [] for all that are not on demand. What is ready already is left alone.

    Args:
        names: Names of the catalogue; what they are made from is prepared as well.
        models_path: Folder for the prepared models; made if it is not there.
        report: Told what is being done, in this thread.
        verify: Compare the hashes of everything, also of what was compared before.

    Raises:
        ConfigError: an unknown name.
        ModelMissingError: a package is missing or broken, no space, not writable, or a conversion failed. What was prepared
            before stays usable: a folder appears or is replaced in one step.
    """
    models = select(names)
    try:
        models_path.mkdir(parents=True, exist_ok=True)
        with _lock(models_path, lambda: report(models[0].name, 0.0, "waiting for another preparation")):
            _remove_leftovers(models_path)
            for model in models:
                if model.prepared:
                    _prepare_one(model, models_path, report, verify)
                else:
                    _check_package(model, report, verify)
    except OSError as error:
        raise ModelMissingError(
            f"{error.filename or models_path}: {error.strerror}; models are prepared in {models_path}"
        ) from error


def _check_package(model: Model, report: Report, verify: bool) -> None:
    """A model that is used where its package lies."""
    model.source_paths()
    if verify:
        report(model.name, 0.0, "comparing hashes")
        _check_sources(model)
    report(model.name, 1.0, "ready, used in its package")


def _prepare_one(model: Model, models_path: Path, report: Report, verify: bool) -> None:
    folder = models_path / model.name
    if not manifest.problem(model, folder):
        if not verify and not manifest.is_new(folder):
            report(model.name, 1.0, "ready")
            return
        report(model.name, 0.0, "comparing hashes")
        if not manifest.problem_by_hash(folder):
            manifest.remember(folder)
            report(model.name, 1.0, "ready")
            return
    report(model.name, 0.0, f"checking {model.package}")
    _check_sources(model)
    _check_space(model, models_path)
    with _new_folder(model.name, models_path) as new:
        run_conversion(model, models_path, new, lambda done, text: report(model.name, 0.95 * done, text))
        report(model.name, 0.95, "hashing")
        for path in new.iterdir():
            path.chmod(0o644)
        manifest.write(model, new)
        problem = manifest.problem(model, new)
        if problem:
            raise ModelMissingError(f"model {model.name}: the conversion went wrong: {problem}")
        _replace(folder, new)
    manifest.remember(folder)
    report(model.name, 1.0, "ready")


def _check_sources(model: Model) -> None:
    for path, source in zip(model.source_paths(), model.sources, strict=True):
        if manifest.sha256_of(path) != source.sha256:
            raise model.broken_source(path, "its hash is not that of the package")


def _check_space(model: Model, models_path: Path) -> None:
    free_bytes = shutil.disk_usage(models_path).free
    # Sizes that are not known are small, or those of the sources.
    needed_bytes = int(1.2 * max(model.size_bytes, sum(source.size_bytes for source in model.sources))) + 50_000_000
    if free_bytes < needed_bytes:
        raise ModelMissingError(
            f"model {model.name} needs {needed_bytes // 1_000_000} MB in {models_path}, {free_bytes // 1_000_000} MB are free: "
            "make room or set models_dir to another disk"
        )


def _package_folder(model: Model) -> Path:
    folder = model.package_folder()
    assert folder is not None, "source_paths was called before"
    return folder / model.folder


@contextmanager
def _lock(models_path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Only one process at a time prepares models in this folder. The lock goes with the process, however that ends."""
    import fcntl

    deadline_s = time.monotonic() + LOCK_DEADLINE_S
    with (models_path / _LOCK_FILE).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ModelMissingError(f"another process has been preparing models in {models_path} for too long") from None
            on_wait()
            time.sleep(0.2)
        yield


@contextmanager
def _new_folder(name: str, models_path: Path) -> Iterator[Path]:
    """A folder beside the final one, gone afterwards if it was not moved."""
    folder = Path(tempfile.mkdtemp(prefix=f".new-{name}-", dir=models_path))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    """Put ``new`` in the place of ``folder``. Who has the old files open keeps them."""
    old = new.with_name(new.name.replace(".new-", ".old-", 1))
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(models_path: Path) -> None:
    """Folders of a preparation that was killed."""
    for pattern in (".new-*", ".old-*"):
        for folder in models_path.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
