"""The commands against a registry in a bucket, as a user runs them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from optimize.registry import Registry
from serve.client import Client
from tests import exporting
from tests.objectstore import Store
from tests.optimize.registry.publishing import overwrite_blob
from tests.published import identity, publish, scale
from tests.serving import started

OPTIMIZE = Path(sys.executable).with_name("optimize")


def optimize(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(OPTIMIZE), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def published(s3: Store, tmp_path: Path) -> str:
    """A registry with two versions of `net`: y = 2x, then y = 3x."""
    for factor in (2.0, 3.0):
        publish(s3.url, "net", scale(factor), tmp_path)
    return s3.url


def test_versions_promote_rollback_and_gc(published: str) -> None:
    def current() -> list[str]:
        lines = optimize("versions", "net", "--registry", published).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "2"]
        return [line.split()[0] for line in lines if line.endswith("current")]

    assert current() == ["2"]
    assert optimize("versions", "net", "--registry", published).stderr == ""
    assert optimize("rollback", "net", "--registry", published).stdout == "net: version 1 is current\n"
    assert current() == ["1"]
    assert optimize("promote", "net", 2, "--registry", published).stdout == "net: version 2 is current\n"
    assert current() == ["2"]
    done = optimize("gc", "--registry", published, "--older-than", 0)
    assert done.stdout == "deleted 0 files that no version names\n"


def test_pulled_version_is_served_without_the_bucket(published: str, tmp_path: Path) -> None:
    folder = tmp_path / "pulled"
    optimize("pull", "net@1", folder, "--registry", published)
    assert [line.split()[:2] for line in optimize("versions", "--registry", folder).stdout.splitlines()] == [
        ["net", "1"]
    ]
    command = [str(OPTIMIZE), "serve", "--registry", str(folder), "--port", "0"]
    with started(command, tmp_path, 1) as service, Client(service.address) as client:
        prediction = client.infer("net", {"x": np.ones((1, 4), np.float32)}, timeout_s=30)
    assert (prediction.version, float(prediction.outputs["y"][0, 0])) == ("1", 2.0)


def test_damaged_object_is_not_pulled(published: str, tmp_path: Path) -> None:
    blob = Registry(published).load("net", 1).golden.blob
    overwrite_blob(Registry(published), blob, b"other bytes")
    done = optimize("pull", "net@1", tmp_path / "pulled", "--registry", published, code=4)
    assert "the file was changed or damaged" in done.stderr
    assert not list(tmp_path.glob("*pulled*"))


@pytest.mark.parametrize("command", [("versions", "net"), ("promote", "net", 1), ("gc",), ("serve",)])
def test_missing_bucket_exits_2_with_one_line(s3: Store, command: tuple[object, ...]) -> None:
    done = optimize(*command, "--registry", "s3://nobody-made-it/models", code=2)
    assert (done.stdout, done.stderr) == (
        "",
        "error: s3://nobody-made-it/models: there is no bucket of that name; create it, or name another\n",
    )


def test_missing_version_exits_4_with_one_line(published: str) -> None:
    done = optimize("promote", "net", 9, "--registry", published, code=4)
    assert done.stderr.startswith(f"error: net: no version 9 in {published} (published: 1, 2); ")


def in_bucket(budget: Path, url: str) -> Path:
    budget.write_text(budget.read_text().replace("schema = 1\n", f'schema = 1\nregistry = "{url}"\n'))
    return budget


def test_export_to_a_bucket_and_report_from_it(s3: Store, tmp_path: Path) -> None:
    budget = in_bucket(exporting.project(tmp_path / "project", precisions=["fp32"]), s3.url)
    found = exporting.export(budget)
    assert found.code == 0, found.stderr
    assert found.model["winner"]["path"] == f"{s3.url}/models/tiny/1/manifest.json"
    assert exporting.export(budget).model["winner"]["version"] == 1
    registry = Registry(s3.url)
    assert (registry.versions("tiny"), registry.current("tiny")) == ([1], 1)
    assert registry.model_file(registry.load("tiny")).is_file()
    assert sorted(path.name for path in budget.parent.iterdir()) == ["budgets.toml", "samples.npz", "tiny.onnx"]
    optimize("report", "--budget", budget, "--output", tmp_path / "report", "--format", "md")
    assert "tiny" in (tmp_path / "report" / "report.md").read_text()


def test_export_to_a_bucket_that_may_not_be_written_ends_before_its_work(s3: Store, tmp_path: Path) -> None:
    budget = in_bucket(exporting.project(tmp_path / "project", precisions=["fp32"]), s3.url)
    s3.fail("denied", times=100)
    done = optimize("export", "--budget", budget, code=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {s3.url}: access is refused (AccessDenied: ")


def test_score_with_a_model_from_a_bucket(published: str, s3: Store, tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    pq.write_table(pa.table({"x": list(x)}), tmp_path / "in.parquet")
    arguments = ("--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--workers", 1)
    done = optimize("score", "net", "--registry", published, *arguments)
    assert "10 rows in 1 part, by net version 2" in done.stdout
    parts = pq.read_table(tmp_path / "out").to_pydict()
    np.testing.assert_array_equal(np.array(parts["y"]), 3 * x)
    digest = Registry(published).load("net").digest
    assert len(s3.requests(f"GET .*{digest}")) == 1


def test_service_follows_the_current_version_in_a_bucket(published: str, tmp_path: Path) -> None:
    command = [str(OPTIMIZE), "serve", "--registry", published, "--port", "0"]
    with started(command, tmp_path, 1) as service, Client(service.address) as client:

        def answer() -> tuple[str, float]:
            prediction = client.infer("net", {"x": np.ones((1, 4), np.float32)}, timeout_s=30)
            return prediction.version, float(prediction.outputs["y"][0, 0])

        assert answer() == ("2", 3.0)
        optimize("rollback", "net", "--registry", published)
        exporting.wait_for(lambda: answer() == ("1", 2.0))
        assert service.stop() == 0


def test_version_whose_file_was_changed_in_the_bucket_is_not_served(s3: Store, tmp_path: Path) -> None:
    publish(s3.url, "net", identity(), tmp_path)
    registry = Registry(s3.url)
    registry._store.write(f"blobs/sha256/{registry.load('net').digest}", b"another model")
    done = optimize("serve", "--registry", s3.url, "--port", 0, code=4)
    assert "its bytes have digest" in done.stderr.splitlines()[-1]
