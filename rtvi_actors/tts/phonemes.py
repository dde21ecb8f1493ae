"""Phonemes for Coqui by the espeak-ng library inside the package ``espeakng-loader``, so that no system package is needed.

Coqui's own phonemizer starts the espeak-ng program for every sentence (10-40 ms). The library gives the same phonemes in well
under a millisecond. It is registered with Coqui under a name of its own, since Coqui puts its own class back under "espeak".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models.piper_to_coqui import PHONEMIZER

_LANGUAGE_FLAG = re.compile(r"\(.+?\)")
"""espeak-ng marks words that it reads in another language: ``(fr)ʒe(en)``."""


class EspeakLibrary:
    """The espeak-ng library for one language. To be used by one thread at a time.

    Raises:
        ModelMissingError: the packages phonemizer and espeakng-loader are not installed, or their library does not load.
    """

    def __init__(self, language: str) -> None:
        try:
            import espeakng_loader
            from phonemizer.backend.espeak.wrapper import EspeakWrapper

            EspeakWrapper.set_library(espeakng_loader.get_library_path())
            EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
            self._espeak = EspeakWrapper()
            self._espeak.set_voice(language)
        except (ImportError, RuntimeError, OSError) as error:
            raise ModelMissingError(
                f"no phonemes for {language!r}: {error}; run `pip install phonemizer espeakng-loader`, or install espeak-ng"
            ) from error

    @property
    def version(self) -> str:
        """Version of espeak-ng, as ``1.52.0``."""
        return ".".join(str(part) for part in self._espeak.version)

    def phonemes(self, text: str) -> str:
        """``text`` (without punctuation) in IPA, with stress marks and spaces between words."""
        lines = self._espeak.text_to_phonemes(text).split("\n")
        return "".join(_LANGUAGE_FLAG.sub("", line).strip() for line in lines).replace("_", "")


def register_with_coqui() -> None:
    """Make Coqui know the phonemizer that converted voices name in their config. Call it before loading one.

    Without the packages of the library, Coqui's own phonemizer takes the name, if the espeak-ng program is there.

    Raises:
        ModelMissingError: neither is there.
    """
    from TTS.tts.utils.text.phonemizers import PHONEMIZERS, ESpeak

    try:
        EspeakLibrary("en-us")
    except ModelMissingError:
        if not ESpeak.is_available():
            raise
        PHONEMIZERS[PHONEMIZER] = ESpeak
        return
    PHONEMIZERS[PHONEMIZER] = _coqui_class()


def pronouncer(phonemizer: Any) -> Callable[[str], str]:
    """What a Coqui phonemizer makes of one word. By its letters, if that would start a program for each word, or there is none."""
    library = getattr(phonemizer, "library", None)
    return library.phonemes if isinstance(library, EspeakLibrary) else str


def _coqui_class() -> type[Any]:
    """A Coqui phonemizer class over :class:`EspeakLibrary`. Made on demand: importing Coqui takes a second."""
    from TTS.tts.utils.text.phonemizers.base import BasePhonemizer

    class EspeakLibraryPhonemizer(BasePhonemizer):
        """Coqui takes the punctuation out before and puts it back after :meth:`_phonemize`."""

        def __init__(self, language: str) -> None:
            self.library = EspeakLibrary(language)
            super().__init__(language, keep_puncs=True)

        @staticmethod
        def name() -> str:
            return PHONEMIZER

        @classmethod
        def is_available(cls) -> bool:
            return True

        @staticmethod
        def supported_languages() -> dict[str, str]:
            return {}

        def is_supported_language(self, language: str) -> bool:
            return True  # the library refused an unknown one already

        def version(self) -> str:
            return self.library.version

        def _phonemize(self, text: str, separator: str) -> str:
            return self.library.phonemes(text)

    return EspeakLibraryPhonemizer
