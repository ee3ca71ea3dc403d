"""The README's five commands, run in a copy of what they need, at full size: 16,000 calls judged in eight blocks."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from optimize.errors import Exit
from tests.serving import gone, started

REPOSITORY = Path(__file__).parents[2]


def commands() -> dict[str, list[str]]:
    """The README's five commands by the sub-command of `optimize` that they call, in order."""
    text = (REPOSITORY / "README.md").read_text()
    section = text.split("## The whole loop in five commands")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return {line.split()[1]: shlex.split(line) for line in block.group(1).strip().splitlines()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user has after cloning and `make setup`, without anything built yet."""
    place = tmp_path / "clone"
    place.mkdir()
    shutil.copy(REPOSITORY / "budgets.toml", place)
    shutil.copytree(
        REPOSITORY / "examples", place / "examples", ignore=shutil.ignore_patterns("weights", "__pycache__")
    )
    (place / ".venv").symlink_to(sys.prefix)
    return place


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)


def judged(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a load test until it gives a verdict: a generator that was starved by its neighbours asks for another run, at most twice."""
    ended = run(folder, command)
    for _ in range(2):
        if ended.returncode != Exit.INCONCLUSIVE:
            break
        ended = run(folder, command)
    return ended


def test_the_readme_shows_the_whole_loop_in_five_commands() -> None:
    assert list(commands()) == ["export", "serve", "score", "loadtest", "report"]


def test_the_loop_closes(folder: Path) -> None:
    steps = commands()

    exported = run(folder, steps["export"])
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((folder / "artifacts/models/digits/1/manifest.json").read_text())
    assert {verdict["budget"]: verdict["verdict"] for verdict in manifest["verdicts"]} == {
        "size.mb": "PASS",
        "accuracy.max_drop": "PASS",
        "accuracy.min_agreement": "PASS",
        "latency.p99_ms": "PASS",
        "throughput.qps": "PASS",
        "throughput.p99_ms": "PASS",
    }

    with started(steps["serve"], folder, models=1) as service:
        family = service.family()
        assert steps["loadtest"][2] == service.address
        loaded = judged(folder, steps["loadtest"])
        assert loaded.returncode == 0, loaded.stdout + loaded.stderr
        found = json.loads((folder / "out/loadtest/report.json").read_text())
        assert (found["verdict"], found["load"]["calls"]) == ("PASS", 16_000)
        assert service.stop(signal.SIGTERM) == 0
        assert gone(family)

    scored = run(folder, steps["score"])
    assert scored.returncode == 0, scored.stderr
    assert sorted(pq.read_table(folder / "out/scores").column("row").to_pylist()) == list(range(500))

    reported = run(folder, steps["report"])
    assert reported.returncode == 0, reported.stderr
    assert manifest["candidate"] in (folder / "out/report/report.html").read_text()
