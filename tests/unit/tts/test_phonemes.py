from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.tts.phonemes import EspeakLibrary

pytestmark = pytest.mark.unit

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("phonemizer") is None or importlib.util.find_spec("espeakng_loader") is None,
    reason="phonemizer and espeakng-loader are not installed",
)


@needs_library
@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("hello", "h\u0259l\u02c8o\u028a"),
        ("The capital of France", "\u00f0\u0259 k\u02c8\u00e6p\u026a\u027e\u0259l \u028cv f\u0279\u02c8\u00e6ns"),
        ("a", "\u02c8e\u026a"),
        ("", ""),
    ],
)
def test_american_english(text: str, phonemes: str) -> None:
    assert EspeakLibrary("en-us").phonemes(text) == phonemes


@needs_library
def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ModelMissingError, match="no phonemes for 'tlh-x'"):
        EspeakLibrary("tlh-x")


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_loader(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("espeakng_loader"):
            raise ImportError("No module named 'espeakng_loader'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_loader)
    with pytest.raises(ModelMissingError, match="pip install phonemizer espeakng-loader"):
        EspeakLibrary("en-us")
