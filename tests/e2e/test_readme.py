"""The README's five commands, run in a copy of what they need, at full size: 16,000 calls judged in eight blocks."""

import json
import shlex
import signal
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from optimize.errors import Exit
from tests.e2e.readme import blocks, clone, typed
from tests.e2e.stock import check_answers, in_process
from tests.serving import gone, started

REPOSITORY = Path(__file__).parents[2]


def commands() -> dict[str, list[str]]:
    """The README's five commands by the sub-command of `optimize` that they call, in order."""
    (block,) = blocks("The whole loop in five commands")
    return {line.split()[1]: shlex.split(line) for line in block.splitlines()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clone(tmp_path / "clone")


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


def test_three_commands_lead_to_a_first_prediction() -> None:
    """`test_the_loop_closes` runs the third of them, and the slow test of the other demo model all."""
    demo, serve, predict, *_ = blocks("Start")
    assert demo == "make demo"
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "demo: $(VENV)/.demo-installed\n\t$(BIN)/optimize export --budget budgets.toml\n" in makefile
    assert serve == ".venv/bin/optimize serve"
    assert predict.startswith(".venv/bin/python - <<'END'\n")
    assert "tritonclient" in predict


def check_clients(folder: Path, address: str, scratch: Path) -> None:
    """The stock client and ours, as the README calls them, are answered what the session answers."""
    _, _, predict, *_, examples = blocks("Start")
    assert typed(folder, predict) == "the first image shows a 0\n"
    rows = pq.read_table(folder / "examples/data/digits.parquet").column("image").to_pylist()
    images = {"image": np.array(rows[:8], np.float32)}
    check_answers(folder / "artifacts", "digits", address, {"images": images}, scratch)
    digits = in_process(folder / "artifacts", "digits", images)["output"].argmax(axis=1)
    ours, _ = typed(folder, examples.splitlines()[0]).splitlines()
    assert ours == " ".join(["digits:", *map(str, digits)])


@pytest.mark.alone
def test_the_loop_closes(folder: Path, tmp_path: Path) -> None:
    steps = commands()

    exported = run(folder, steps["export"])
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((folder / "artifacts/models/digits/1/manifest.json").read_text())
    assert {verdict["budget"]: verdict["verdict"] for verdict in manifest["verdicts"]} == {
        "size.mb": "PASS",
        "accuracy.max_drop": "PASS",
        "accuracy.min_agreement": "PASS",
        "latency.p99_ms": "PASS",
        "memory.peak_mb": "PASS",
        "throughput.qps": "PASS",
        "throughput.p99_ms": "PASS",
    }

    with started(steps["serve"], folder, models=1) as service:
        family = service.family()
        assert steps["loadtest"][2] == service.address
        check_clients(folder, service.address, tmp_path)
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
