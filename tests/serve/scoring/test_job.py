import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.errors import UserError
from serve.scoring.job import worker_count
from tests.published import publish, scale


def test_workers_are_as_many_as_the_cores_carry() -> None:
    assert worker_count(None, threads=1, cores=2) == 2
    assert worker_count(None, threads=2, cores=5) == 2
    assert worker_count(None, threads=8, cores=2) == 1
    assert worker_count(1, threads=1, cores=2) == 1
    with pytest.raises(UserError, match=r"--workers 3: 3 x 2 threads .* the 4 cores here; wanted at most --workers 2"):
        worker_count(3, threads=2, cores=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a model, and files that do not fit it."""
    folder = tmp_path_factory.mktemp("refused")
    publish(folder / "registry", "scale", scale(2.0), folder)
    good = np.zeros((4, 4), np.float32)
    pq.write_table(pa.table({"x": list(good)}), folder / "good.parquet")
    pq.write_table(pa.table({"z": list(good)}), folder / "missing.parquet")
    pq.write_table(pa.table({"x": list(good.astype(np.int64))}), folder / "integers.parquet")
    (folder / "text.parquet").write_text("no parquet at all")
    (folder / "taken").mkdir()
    (folder / "taken" / "notes").write_text("mine")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("scale", "--input", "missing.parquet", "--output", "out"), 2, "has no column 'x' (columns: z)"),
        (
            ("scale", "--input", "integers.parquet", "--output", "out"),
            2,
            "column 'x' is list<element: int64>; wanted float",
        ),
        (("scale", "--input", "text.parquet", "--output", "out"), 2, "cannot be read as Parquet"),
        (("scale", "--input", "none.parquet", "--output", "out"), 2, "no such file"),
        (("scale", "--input", "good.parquet", "--output", "taken"), 2, "is not empty"),
        (("scale", "--input", "good.parquet", "--output", "taken", "--resume"), 2, "is not empty"),
        (("scale", "--input", "good.parquet", "--output", "out", "--workers", "999"), 2, "wanted at most --workers"),
        (("other", "--input", "good.parquet", "--output", "out"), 4, "other: no current version"),
        (("scale", "--input", "good.parquet", "--output", "out", "--version", "7"), 4, "scale: no version 7"),
    ],
)
def test_refusals_are_one_line_before_ray_starts(
    folder: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    # An `import ray` would end this with ModuleNotFoundError and another code.
    run = "import sys; sys.modules['ray'] = None; from optimize.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", run, "score", *arguments, "--registry", "registry"],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (folder / "out").exists()


def test_the_command_loads_no_heavy_library_before_it_runs() -> None:
    check = (
        "import sys, serve.scoring.cli\n"
        "print([name for name in ('ray', 'pyarrow', 'onnxruntime', 'numpy', 'rich.progress') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True).stdout == b"[]\n"
