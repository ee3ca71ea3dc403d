"""`optimize score` as a user runs it, on a real Ray: what it writes, and what is left when something kills it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.published import publish
from tests.serve.scoring import models

COMMAND = (sys.executable, "-c", "from optimize.cli import main; main()", "score")
ROW_GROUPS = 60
ROWS = ROW_GROUPS * 16
TIMEOUT_S = 180.0
TAG = "PROVESERVE_TEST"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry, and an input that takes seconds to score."""
    folder = tmp_path_factory.mktemp("score")
    publish(folder / "registry", "slow", models.slow(rounds=15), folder)
    publish(folder / "registry", "lookup", models.lookup(), folder)
    x = np.arange(ROWS * 4).reshape(ROWS, 4)
    pq.write_table(pa.table({"x": list(x.astype(np.float64))}), folder / "in.parquet", row_group_size=16)
    x %= 10_000
    x[500] = 10_000
    pq.write_table(pa.table({"x": list(x)}), folder / "bad.parquet", row_group_size=16)
    return folder


@dataclass
class Running:
    """A command that runs, and all that it started: those carry a tag in their environment."""

    process: subprocess.Popen[str]
    tag: str

    def family(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(TAG) == self.tag and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that score, be they at it or between two tasks."""
        return [process for process in self.family() if process.name().startswith("ray::_Actor")]

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Running]:
    """`optimize score` in a process group of its own, as a terminal starts it; none of its processes may be left."""
    tag = uuid.uuid4().hex
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--registry", "registry"],
        cwd=folder,
        env={**os.environ, TAG: tag},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    running = Running(process, tag)
    try:
        yield running
        process.wait(TIMEOUT_S)
        assert eventually(lambda: not running.family(), 5.0), running.family()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def eventually(condition, timeout_s: float = TIMEOUT_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def parts(out: Path) -> dict[str, tuple[int, int]]:
    """What identifies the parts that are there."""
    return {part.name: (part.stat().st_ino, part.stat().st_mtime_ns) for part in sorted(out.glob("part-*"))}


def assert_complete(out: Path, model: str = "slow") -> None:
    table = pq.read_table(out).sort_by("row")
    assert table["row"].to_pylist() == list(range(ROWS))
    assert np.array(table["y"].to_pylist()).reshape(-1).tolist() == (2.0 * np.arange(ROWS * 4)).tolist()
    summary = json.loads((out / "_SUCCESS").read_text())
    assert (summary["model"], summary["version"], summary["rows"], summary["parts"]) == (model, 1, ROWS, ROW_GROUPS)
    assert {entry.name for entry in out.iterdir() if not entry.name.startswith("part-")} == {"_SUCCESS", "_job.json"}


def test_killed_job_goes_on_from_its_parts_and_listens_on_loopback_only(folder: Path) -> None:
    out = folder / "killed"
    with started(folder, "slow", "--input", "in.parquet", "--output", "killed") as run:
        assert eventually(lambda: len(parts(out)) >= 5), run.process.poll()
        addresses = {
            connection.laddr.ip
            for process in run.family()
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        run.process.kill()
        run.process.wait()
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    before = parts(out)
    assert 5 <= len(before) < ROW_GROUPS
    assert not (out / "_SUCCESS").exists()

    with started(folder, "slow", "--input", "in.parquet", "--output", "killed", "--resume") as run:
        code, printed, err = run.wait()
    assert code == 0, err
    assert f"killed: {ROWS} rows in {ROW_GROUPS} parts, by slow version 1" in printed
    assert f"; {(ROW_GROUPS - len(before)) * 16} scored now in " in printed
    assert f"scored {ROWS} of {ROWS} rows" in err
    after = parts(out)
    assert {name: after[name] for name in before} == before  # never rewritten
    assert_complete(out)


def test_killed_worker_costs_nothing_and_a_finished_job_is_left_alone(folder: Path) -> None:
    out = folder / "worker"
    with started(folder, "slow", "--input", "in.parquet", "--output", "worker", "--resume") as run:
        assert eventually(lambda: parts(out) and run.workers()), run.process.poll()
        run.workers()[0].kill()
        code, _, err = run.wait()
    assert code == 0, err
    assert_complete(out)

    finished = {entry: entry.stat().st_mtime_ns for entry in out.iterdir()}
    with started(folder, "slow", "--input", "in.parquet", "--output", "worker") as run:
        code, _, err = run.wait()
    assert code == 2
    assert "worker: is not empty" in err
    with started(folder, "slow", "--input", "in.parquet", "--output", "worker", "--resume") as run:
        code, printed, err = run.wait()
    assert (code, err) == (0, "")
    assert "nothing was left to score" in printed
    assert {entry: entry.stat().st_mtime_ns for entry in out.iterdir()} == finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_process_and_no_half_file(folder: Path, number: signal.Signals) -> None:
    out = folder / f"interrupted{number}"
    with started(folder, "slow", "--input", "in.parquet", "--output", out.name) as run:
        assert eventually(lambda: len(parts(out)) >= 3), run.process.poll()
        os.killpg(run.process.pid, number) if number == signal.SIGINT else run.process.send_signal(number)
        code, printed, err = run.wait()
    assert (code, printed) == (130, "")
    assert f"{out.name}: finished parts are kept; continue with --resume" in err
    assert "Traceback" not in err
    assert {entry.name for entry in out.iterdir()} == {"_job.json", *parts(out)}
    assert all(pq.read_metadata(out / name).num_rows == 16 for name in parts(out))


def test_interrupt_while_ray_starts_leaves_no_process(folder: Path) -> None:
    with started(folder, "slow", "--input", "in.parquet", "--output", "early") as run:
        assert eventually(lambda: any("gcs_server" in process.name() for process in run.family()))
        os.killpg(run.process.pid, signal.SIGINT)
        code, printed, err = run.wait()
    assert (code, printed) == (130, "")
    assert "Traceback" not in err
    assert [entry.name for entry in (folder / "early").iterdir()] == ["_job.json"]


def test_row_that_the_model_fails_on_ends_the_job_and_keeps_its_parts(folder: Path) -> None:
    with started(folder, "lookup", "--input", "bad.parquet", "--output", "failed", "--workers", "1") as run:
        code, printed, err = run.wait()
    assert (code, printed) == (4, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert "bad.parquet: row 500 (row group 31): the model fails:" in line
    assert "finished parts are kept" in line
    assert list(parts(folder / "failed")) == [f"part-{number:05d}.parquet" for number in range(31)]
