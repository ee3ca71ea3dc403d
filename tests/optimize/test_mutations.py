"""Each wrong change of `mutations.py` makes a unit test of the core fail: in a copy of the sources, so that nothing here changes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.optimize.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
UNIT_TESTS = [
    "test_choice",
    "test_what_is_measured",
    "test_reuse",
    "test_stage_keys",
    "test_publishing_again",
    "test_validate_command",
    "test_partial_runs",
    "test_stage_failures",
    "execution/test_keys",
    "tournament/test_candidate",
]
EACH = [(first, mutation) for first, mutations in MUTATIONS.items() for mutation in mutations]
ALL_PASSED, SOME_FAILED = 0, 1
PATIENCE_S = 300.0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources that the unit tests need, compiled ones included."""
    for folder in ("optimize", "tests/optimize"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for file in (
        "pyproject.toml",
        "tests/__init__.py",
        "tests/conftest.py",
        "tests/exporting.py",
        "tests/objectstore.py",
    ):
        shutil.copy2(ROOT / file, tmp_path / file)
    return tmp_path


def run_unit_tests(copy: Path, first: str = UNIT_TESTS[0]) -> subprocess.CompletedProcess[str]:
    names = [f"tests/optimize/{name}.py" for name in dict.fromkeys((first, *UNIT_TESTS))]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", *names],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def mutate(copy: Path, mutation: Mutation) -> None:
    file = copy / "optimize" / mutation.file
    text = file.read_text()
    assert text.count(mutation.old) == 1, f"{mutation.file}: wanted this once: {mutation.old!r}"
    file.write_text(text.replace(mutation.old, mutation.new))


def test_each_mutation_still_has_its_place() -> None:
    lost = [
        mutation.what
        for _, mutation in EACH
        if (ROOT / "optimize" / mutation.file).read_text().count(mutation.old) != 1
    ]
    assert not lost
    assert len({mutation.what for _, mutation in EACH}) == len(EACH) >= 30


@pytest.mark.slow
def test_unit_tests_pass_on_the_copy_and_import_it(copy: Path) -> None:
    done = run_unit_tests(copy)
    assert done.returncode == ALL_PASSED, done.stdout + done.stderr
    (copy / "optimize" / "pipeline.py").write_text("raise ImportError('the copy')")
    assert "the copy" in run_unit_tests(copy).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("first", "mutation"), EACH, ids=[mutation.what for _, mutation in EACH])
def test_mutation_is_caught(copy: Path, first: str, mutation: Mutation) -> None:
    mutate(copy, mutation)
    done = run_unit_tests(copy, first)
    assert done.returncode == SOME_FAILED, f"{mutation.what}: no unit test failed\n{done.stdout}{done.stderr}"
