"""What has to be right in a process before it imports transformers or Coqui TTS.

Call :func:`ensure_torchaudio` and :func:`work_offline` first in every function that imports one of them; both are cheap and may
be called again. Nothing here imports torch by itself, except :func:`limit_threads`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_EXTENSION = "torchaudio._extension"


def ensure_torchaudio() -> bool:
    """Make ``import torchaudio`` work beside a CPU build of torch; True if that needed something.

    PyPI's torchaudio for Linux is linked against CUDA, so importing it beside a CPU build of torch fails on a missing
    ``libc10_cuda.so``, and Coqui and transformers both import it. The compiled part is only needed for forced alignment,
    which nobody here uses; so a module without it takes the place of ``torchaudio._extension``. The rest of torchaudio is
    Python on top of torch and works. Must run before the first import of torchaudio in the process.
    """
    if "torchaudio" in sys.modules or _EXTENSION in sys.modules:
        return False
    if importlib.util.find_spec("torchaudio") is None or _torch_has_cuda():
        return False
    extension = types.ModuleType(_EXTENSION)
    extension.__dict__.update(
        fail_if_no_align=_refuse_alignment,
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
    )
    sys.modules[_EXTENSION] = extension
    return True


def _torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build (or is not there at all), told without importing it."""
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return not folders or (Path(folders[0]) / "lib" / "libc10_cuda.so").exists()


def _refuse_alignment(function: Callable[..., Any]) -> Callable[..., NoReturn]:
    """Stand-in for torchaudio's decorator of the functions that need its compiled part."""

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(f"torchaudio's {function.__name__} needs its compiled extension, which this build of torch cannot load")

    return refuse


def work_offline() -> None:
    """Keep Hugging Face libraries from the network: everything is loaded by path."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"


def limit_threads(threads: int) -> None:
    """Let torch use ``threads`` threads for one operation in this process, whatever another import has set."""
    import torch

    torch.set_num_threads(threads)
