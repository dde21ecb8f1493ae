"""The manifest of a prepared folder: what was written, from what, with sizes and hashes.

It is written last, so a folder with a manifest is whole. Sizes are compared on every check (some microseconds); hashes when asked
to, and once for every manifest that this cache has not seen yet, for instance one copied from another machine.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from rtvi_actors.models.catalogue import Model

MANIFEST_FILE = "manifest.json"
SEEN_FILE = ".verified.json"
"""Beside the folders: name -> hash of the manifest whose files were compared by hash."""

_SIZE_TOLERANCE = 0.02
"""Another version of a library may write another header, not another model."""

_TOOLS = ("torch", "transformers", "ctranslate2", "coqui-tts")


def write(model: Model, folder: Path) -> None:
    """Hash all files of ``folder`` and write its manifest."""
    files = {
        path.name: {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }
    content = {
        "model": model.name,
        "recipe": model.recipe,
        "package": " ".join(f"{package.name}=={package.version}" for package in model.packages),
        "sources": _sources(model),
        "made_with": {tool: _version(tool) for tool in _TOOLS},
        "files": files,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def problem(model: Model, folder: Path) -> str:
    """What is wrong with the prepared ``folder``, told by its manifest and the sizes of its files; "" if nothing is."""
    content = _read(folder / MANIFEST_FILE)
    if content is None:
        return "not prepared"
    if content.get("recipe") != model.recipe or content.get("sources") != _sources(model):
        return "prepared by another version"
    files = content["files"]
    for name, size_bytes in model.prepared:
        if name not in files:
            return f"{name} is missing"
        if size_bytes is not None and abs(files[name]["size_bytes"] / size_bytes - 1) > _SIZE_TOLERANCE:
            return f"{name} has {files[name]['size_bytes']} bytes instead of about {size_bytes}"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size_bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {entry['size_bytes']}"
    return ""


def problem_by_hash(folder: Path) -> str:
    """Compare all files of a folder that has no :func:`problem` with the hashes of its manifest; "" if they agree."""
    content = _read(folder / MANIFEST_FILE)
    for name, entry in (content or {"files": {}})["files"].items():
        if sha256_of(folder / name) != entry["sha256"]:
            return f"{name} has changed since it was prepared"
    return ""


def is_new(folder: Path) -> bool:
    """Whether this manifest's files were never compared by hash in this cache."""
    seen = _read(folder.parent / SEEN_FILE) or {}
    return bool(seen.get(folder.name) != sha256_of(folder / MANIFEST_FILE))


def remember(folder: Path) -> None:
    """The files of this manifest agree with their hashes."""
    path = folder.parent / SEEN_FILE
    seen = _read(path) or {}
    seen[folder.name] = sha256_of(folder / MANIFEST_FILE)
    path.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sources(model: Model) -> dict[str, str]:
    return {source.path: source.sha256 for source in model.sources}


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if it is not there or is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
