"""The page of all configuration keys, made of ``config.py`` itself: defaults and limits of its structs, their docstrings."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from rtvi_actors import config

Meanings = dict[str, dict[str, str]]
"""Class -> field -> the string below it; "" -> the class's docstring."""


def page() -> str:
    """Markdown: a table per section with default, allowed values and meaning of each key."""
    meanings = _meanings(inspect.getsource(config))
    parts = [
        "# Configuration",
        "Every key, with its default and what is allowed. Written by `rtvi-actors config`, out of `rtvi_actors/config.py`. "
        "A file needs only what it changes; a wrong key is told with its value and what is allowed.",
        "No secret stands in a file: a key of an endpoint is read from the environment variable that `llm.api_key_env` names.",
        *_section("", config.Config, meanings),
    ]
    return "\n\n".join(parts) + "\n"


def _section(path: str, section: type[msgspec.Struct], meanings: Meanings) -> Iterator[str]:
    """The section at ``path`` ("" is the top of the file), then those inside it."""
    rows: list[str] = []
    inner: list[tuple[str, type[msgspec.Struct]]] = []
    for found in msgspec.structs.fields(section):
        kind = msgspec.inspect.type_info(found.type)
        if isinstance(kind, msgspec.inspect.StructType):
            inner.append((f"{path}.{found.encode_name}".lstrip("."), kind.cls))
            continue
        default = found.default if found.default is not msgspec.NODEFAULT else found.default_factory()
        cells = (f"`{found.encode_name}`", _toml(default), _allowed(kind), _meaning(section, found.name, meanings))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if path:
        yield f"## `[{path}]`"
        yield meanings[section.__name__][""]
    if rows:
        yield "\n".join(["| key | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows])
    for name, cls in inner:
        yield from _section(name, cls, meanings)


def _toml(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} of them, in `clusters/laptop.toml`"
    return f"`{json.dumps(value)}`"


def _allowed(kind: Any) -> str:
    """In words."""
    match kind:
        case msgspec.inspect.BoolType():
            return "true, false"
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
            limits = [f"{word} {limit}" for name, word in words.items() if (limit := getattr(kind, name)) is not None]
            return " ".join(["whole number" if isinstance(kind, msgspec.inspect.IntType) else "number", *limits])
        case msgspec.inspect.StrType(pattern=str(pattern)):
            choices = pattern.removeprefix("^(").removesuffix(")$")
            return (
                ", ".join(f'"{choice}"' for choice in choices.split("|")) if choices.replace("|", "").isalpha() else f"`{pattern}`"
            )
        case msgspec.inspect.StrType(max_length=int(length)):
            return f"text of up to {length} characters"
        case msgspec.inspect.ListType():
            return "texts"
        case msgspec.inspect.DictType():
            return "names and texts"
        case _:
            return "text"


def _meaning(section: type[Any], name: str, meanings: Meanings) -> str:
    """Of the field, as the class or the nearest of its bases tells it."""
    told = (meanings.get(cls.__name__, {}).get(name, "") for cls in section.__mro__)
    return next(filter(None, told), "")


def _meanings(source: str) -> Meanings:
    found: Meanings = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        mine = found[node.name] = {"": _plain(ast.get_docstring(node) or "")}
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                mine[field.target.id] = _text(text)
    return found


def _text(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return _plain(node.value.value)
    return ""


def _plain(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")
