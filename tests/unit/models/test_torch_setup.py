from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from rtvi_actors.models.torch_setup import work_offline

pytestmark = pytest.mark.unit


def test_work_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    work_offline()
    assert (os.environ["HF_HUB_OFFLINE"], os.environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")


@pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="torchaudio is not installed")
def test_torchaudio_imports_and_resamples_after_it() -> None:
    program = (
        "from rtvi_actors.models.torch_setup import ensure_torchaudio\n"
        "ensure_torchaudio()\n"
        "assert not ensure_torchaudio()\n"
        "import torch, torchaudio\n"
        "print(tuple(torchaudio.transforms.Resample(22050, 24000)(torch.zeros(1, 2205)).shape))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(1, 2400)", done.stderr
