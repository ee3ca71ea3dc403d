"""What `--help` says, of `optimize` and of every command, is held by a golden file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests import golden

HELP = Path(__file__).parent / "golden" / "help.txt"
# In a process of its own: Typer reads width and colours from the environment when it is imported.
PRINT_ALL = """
import json, typer
from typer.testing import CliRunner
from optimize import cli
cli.add_commands()
names = ["", *typer.main.get_command(cli.app).commands]
runs = [CliRunner().invoke(cli.app, [*name.split(), "--help"], prog_name="optimize") for name in names]
print(json.dumps([run.output for run in runs]))
"""
FRAME = " │╭╮╰╯─"


def words(page: str) -> str:
    """A page without its frame and its columns, which are Rich's and differ between its versions."""
    lines = (re.sub(r" {2,}", "  ", line.strip(FRAME)) for line in page.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def test_help_is_as_it_was() -> None:
    # Wide enough that no line breaks.
    environment = {"PATH": os.environ["PATH"], "TERMINAL_WIDTH": "400", "PYTHONUTF8": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PRINT_ALL], env=environment, capture_output=True, text=True, encoding="utf-8", check=True
    )
    golden.check(HELP, "\n".join(map(words, json.loads(run.stdout))))
