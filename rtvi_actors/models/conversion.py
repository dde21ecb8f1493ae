"""Run one conversion in a process of its own, so that its memory and its libraries go when it is done.

As a program (``python -m rtvi_actors.models.conversion NAME MODELS_PATH FOLDER``) this is that process. It tells its progress as
JSON lines on its standard output; what the libraries print goes to a file that is shown when something unforeseen happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from rtvi_actors.errors import ModelMissingError
from rtvi_actors.models.catalogue import Model, find

Step = Callable[[float, str], None]
"""Called with how much is done (0 to 1) and what comes now."""

DEADLINE_S = 600.0
"""A conversion that takes longer is ended. It takes half a minute."""


def run_conversion(model: Model, models_path: Path, folder: Path, step: Step) -> None:
    """Write the files of ``model`` into the empty ``folder``.

    Raises:
        ModelMissingError: the conversion failed; the text is the last line of what it said.
    """
    command = [sys.executable, "-m", "rtvi_actors.models.conversion", model.name, str(models_path), str(folder)]
    error = ""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True, encoding="utf-8")
        timer = threading.Timer(DEADLINE_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = json.loads(line)
                error = said.get("error", "")
                if not error:
                    step(said["done"], said["text"])
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if code != 0:
            noise.seek(0)
            raise ModelMissingError(f"model {model.name} could not be converted: {error or _last_line(noise.read(), code)}")


def _last_line(text: str, code: int) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if code < 0:
        return f"the process was ended by signal {-code} (out of memory, or longer than {DEADLINE_S:.0f} s)"
    return lines[-1] if lines else f"exit code {code}"


def convert(model: Model, models_path: Path, folder: Path, step: Step) -> None:
    """The conversion itself, in this process."""
    from rtvi_actors.models import parts, piper_to_coqui, smollm2

    if model.name == "vits-joe":
        onnx_path, settings_path = model.source_paths()
        step(0.1, "converting Piper's ONNX to a Coqui checkpoint")
        piper_to_coqui.convert(onnx_path, settings_path, folder)
    elif model.name == "whisper-base":
        step(0.1, "joining its parts")
        parts.join(model.source_paths(), folder)
    elif "openvino" in model.backends:
        step(0.1, "reading GGUF for OpenVINO")
        smollm2.gguf_to_openvino(model.source_paths()[0], models_path / model.made_from, folder)
    elif model.made_from:
        step(0.1, "quantizing to int8 for CTranslate2")
        smollm2.transformers_to_ctranslate2(models_path / model.made_from, folder)
    else:
        smollm2.gguf_to_transformers(model.source_paths()[0], folder, step)


def main(name: str, models_path: str, folder: str) -> int:
    """Convert; returns the exit code."""
    # Libraries write to standard output as well: the pipe gets a number of its own, theirs leads to standard error.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def say(**fields: float | str) -> None:
        pipe.write(json.dumps(fields) + "\n")

    model = find(name)
    assert model is not None, name
    try:
        convert(model, Path(models_path), Path(folder), lambda done, text: say(done=done, text=text))
    except ModuleNotFoundError as error:
        say(error=f"the package of {error.name!r} is not installed: run `pip install 'rtvi_actors[models]'`")
        return 1
    except Exception as error:
        # The parent has one line for it; the whole story is on standard error.
        say(error=f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
