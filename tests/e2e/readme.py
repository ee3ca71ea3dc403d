"""What the README tells its readers to type."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def blocks(title: str) -> list[str]:
    """The shell commands of one section, a text for each block."""
    text = (REPOSITORY / "README.md").read_text()
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", section, re.DOTALL)]


def clone(place: Path) -> Path:
    """What a user has after cloning and `make setup`, without anything built yet."""
    place.mkdir()
    shutil.copy(REPOSITORY / "budgets.toml", place)
    shutil.copytree(
        REPOSITORY / "examples", place / "examples", ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    (place / ".venv").symlink_to(sys.prefix)
    return place


def typed(folder: Path, command: str) -> str:
    """What a command prints that is typed into a shell in `folder`."""
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
