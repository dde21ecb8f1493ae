"""Make the environment of the peers: benchmarks/peers/.venv with Pipecat and transformers' server. Idempotent; some minutes.

python benchmarks/peers/set_up.py
python benchmarks/peers/set_up.py --torch-index URL     torch from another pip index, e.g. PyTorch's own of CPU builds
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENVIRONMENT = FOLDER / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = FOLDER / "requirements.txt"
STAMP = ENVIRONMENT / "requirements.sha256"
TORCH = "torch==2.13.0"
"""With what it requires, which differs between builds."""


def wanted() -> str:
    """What the stamp says of an environment that is as it should be."""
    return hashlib.sha256(TORCH.encode() + REQUIREMENTS.read_bytes()).hexdigest()


def ready() -> bool:
    """Whether the environment is there, with these requirements."""
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text(encoding="ascii") == wanted()


def set_up(torch_index: str | None = None) -> None:
    """Make the environment anew, unless it is there.

    Raises:
        subprocess.CalledProcessError: pip failed; nothing half-made is left.
    """
    if ready():
        return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, *(["--index-url", torch_index] if torch_index else []), TORCH], check=True)
        subprocess.run([*pip, "--no-deps", "--requirement", str(REQUIREMENTS)], check=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        raise
    STAMP.write_text(wanted(), encoding="ascii")


def main() -> None:
    """Set up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-index", default=None, help="a pip index with the build of torch to take")
    options = parser.parse_args()
    set_up(options.torch_index)
    print(f"{ENVIRONMENT} is ready")


if __name__ == "__main__":
    main()
