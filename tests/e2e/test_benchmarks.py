"""The benchmarks of serving still run, each claim of them: what they find proves nothing here, where they run for a moment only."""

import subprocess
import sys

import pytest

from tests.environments import REPOSITORY

CLAIMS = "abcdems"
RUN_S = 600.0


@pytest.mark.slow
def test_every_claim_is_measured() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.serve", CLAIMS, "--quick"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert {line.split()[0] for line in ran.stdout.splitlines() if not line.startswith(" ")} == set(CLAIMS)
