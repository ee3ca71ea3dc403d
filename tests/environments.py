"""Python environments of their own, with our wheel and what a test names beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def call(*command: str, patience_s: float = 300) -> str:
    """What a command prints; one that fails fails the test, with what it said."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience_s, cwd="/")
    assert ended.returncode == 0, f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def fresh(folder: Path, *requirements: str, patience_s: float = 300) -> Path:
    """The Python of a new environment that holds our wheel, what it needs itself, and the requirements."""
    call(sys.executable, "-m", "venv", str(folder / "environment"))
    python = folder / "environment" / "bin" / "python"
    wheel = _wheel(python, folder)
    call(str(python), "-m", "pip", "install", "--quiet", *requirements, str(wheel), patience_s=patience_s)
    return python


def _wheel(python: Path, folder: Path) -> Path:
    source = folder / "source"  # of its own, since a build leaves files behind
    for package in ("optimize", "serve", "loadtest", "protos"):
        shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / file, source)
    call(str(python), "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("proveserve-*.whl")
    return wheel
