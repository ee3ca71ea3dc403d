"""The config file for `serve deploy`: sized by the budgets, as Ray wants it, and really deployed."""

import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import grpc
import msgspec
import numpy as np
import pytest

from optimize.budgets import LatencyBudget, ThroughputBudget
from optimize.errors import UserError
from optimize.manifest import Manifest, OperatingPoint
from protos import open_inference_pb2_grpc
from serve.access.tls import TlsFiles
from serve.client import Client, codec
from serve.models.loading import QUEUED_ROWS
from serve.monitoring.autoscaling import BUSY_SHARE, DRAIN_S, Backlog
from serve.plan import Plan, Route
from serve.rayserve import cluster_config, ray_patches
from serve.served_versions import ServedModel
from tests.published import MAX_BATCH, laborious, publish, scale
from tests.serving import COMMAND, Served, started

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ray declares its own models in a way that pydantic means to drop
    from ray._common.utils import import_attr
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    from serve.rayserve import service


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("models")
    return publish(folder / "registry", "double", scale(2.0), folder)


def declaring(manifest: Manifest, qps: float | None, *, p99_ms: float | None = 200.0, rows: int = 1) -> Manifest:
    """Measured to answer 100 rows per second on two sessions of one thread."""
    return msgspec.structs.replace(
        manifest,
        budgets=msgspec.structs.replace(
            manifest.budgets, latency=LatencyBudget(batch=rows), throughput=ThroughputBudget(qps=qps, p99_ms=p99_ms)
        ),
        online=OperatingPoint(threads=1, instances=2, batch=8, rows_per_s=100.0, p50_ms=20.0, p95_ms=25.0, n=100),
    )


@pytest.mark.parametrize(
    ("qps", "rows", "replicas"), [(None, 1, 1), (70.0, 1, 1), (71.0, 1, 2), (70.0, 2, 2), (350.0, 2, 10)]
)
def test_replicas_for_the_declared_throughput(manifest: Manifest, qps: float, rows: int, replicas: int) -> None:
    assert cluster_config.size([declaring(manifest, qps, rows=rows)]).replicas == replicas


def test_models_add_up_and_more_may_be_asked_for(manifest: Manifest) -> None:
    models = [declaring(manifest, 70.0), declaring(manifest, 35.0)]
    assert cluster_config.size(models).replicas == 2
    assert cluster_config.size(models, replicas=5).replicas == 5


def test_queues_are_bounded_by_what_can_be_answered_in_time(manifest: Manifest) -> None:
    sizing = cluster_config.size([declaring(manifest, 70.0)])
    assert sizing.max_queued == 20, "100 per second for 0.2 s"
    assert sizing.max_ongoing == QUEUED_ROWS + 2 * MAX_BATCH
    assert sizing.cores == 2
    assert sizing.drain_s > cluster_config.DEFAULT_TIMEOUT_S


def test_without_a_measurement_queues_are_bounded_as_well(manifest: Manifest) -> None:
    sizing = cluster_config.size([manifest])
    assert sizing.max_queued == sizing.max_ongoing == QUEUED_ROWS + MAX_BATCH


def test_more_replicas_as_the_load_grows(manifest: Manifest) -> None:
    models = [declaring(manifest, 140.0), declaring(manifest, None, p99_ms=80.0)]
    sizing = cluster_config.size(models, max_replicas=5)
    written = cluster_config.document(Plan("/registry", (), "127.0.0.1", 9000), sizing)
    (deployment,) = ServeDeploySchema.model_validate(written).applications[0].deployments
    scaling = AutoscalingConfig.model_validate(deployment.autoscaling_config)
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    policy = import_attr(scaling.policy.policy_function)(**scaling.policy.policy_kwargs)
    waiting = SimpleNamespace(aggregated_metrics={DRAIN_S: {"a": 0.1}, BUSY_SHARE: {"a": 0.1}})
    assert policy(waiting)[0] == pytest.approx(0.1 / 0.04), "half of the tightest p99"
    with pytest.raises(UserError, match=r"--max-replicas is 1, but the declared throughput takes 2"):
        cluster_config.size(models, max_replicas=1)


def test_a_throughput_without_a_measurement_is_refused(manifest: Manifest) -> None:
    unmeasured = msgspec.structs.replace(declaring(manifest, 70.0), online=None)
    with pytest.raises(UserError, match="declares 70 requests per second, but has no operating point"):
        cluster_config.size([unmeasured])


def test_the_plan_survives_the_file(manifest: Manifest, tmp_path: Path) -> None:
    plan = Plan(
        "/registry",
        (ServedModel("double", 3, follows=False, pinned=(3, 4)),),
        "127.0.0.1",
        9000,
        route=Route.PUBLIC,
        tls=TlsFiles(Path("/cert"), Path("/key")),
        tokens=tmp_path,
    )
    written = cluster_config.text(cluster_config.document(plan, cluster_config.size([manifest])))
    arguments = msgspec.yaml.decode(written)["applications"][0]["args"]
    assert cluster_config.plan_of(arguments) == plan


def test_a_file_that_was_written_before_names_were_moved_still_deploys() -> None:
    """Written by a checkout in which these functions were in `serve.app`, `serve.hardening` and `serve.scaling`."""
    document = msgspec.yaml.decode((Path(__file__).parents[1] / "golden" / "config_before_the_move.yaml").read_bytes())
    schema = ServeDeploySchema.model_validate(document)
    (application,) = schema.applications
    assert application.import_path == "serve.app:deployed"
    assert import_attr(application.import_path) is service.deployed
    assert schema.grpc_options.grpc_servicer_functions == ["serve.hardening.add_services"]
    assert import_attr("serve.hardening.add_services") is ray_patches.add_services
    (deployment,) = application.deployments
    policy = deployment.autoscaling_config["policy"]
    assert policy["policy_function"] == "serve.scaling:Backlog"
    assert isinstance(import_attr("serve.scaling:Backlog")(**policy["policy_kwargs"]), Backlog)
    assert cluster_config.plan_of(application.args) == Plan(
        "/registry", (ServedModel("double", 1),), "127.0.0.1", 9000, metrics_port=9100
    )


def test_arguments_of_another_release_are_refused() -> None:
    with pytest.raises(UserError, match="no plan of this release"):
        cluster_config.plan_of({"registry": "/registry"})


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_command_writes_what_ray_accepts_and_deploys(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish(registry, "double", scale(2.0), tmp_path)
    path = tmp_path / "config.yaml"
    ran = serve("--registry", str(registry), "--config-out", str(path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"wrote {path}: 1 replicas of 1 cores; next: serve deploy {path}\n"
    schema = ServeDeploySchema.model_validate(msgspec.yaml.decode(path.read_bytes()))
    (deployment,) = schema.applications[0].deployments
    assert deployment.num_replicas == 1
    command = [sys.executable, "-m", "tests.serve.deployed_service", str(path)]
    with started(command, Path(__file__).parents[3], 1) as service, Client(service.address) as client:
        x = np.ones((2, 4), np.float32)
        np.testing.assert_array_equal(client.infer("double", {"x": x}, timeout_s=20).outputs["y"], 2 * x)
        assert service.stop() == 0


def replicas_of(service: Served) -> int:
    """Processes that serve."""
    return sum(process.name().startswith("ray::ServeRepl") for process in service.family())


@pytest.mark.slow
def test_a_backlog_adds_a_replica(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish(registry, "laborious", laborious(width=512), tmp_path, max_batch=1)
    path = tmp_path / "config.yaml"
    assert serve("--registry", str(registry), "--config-out", str(path), "--max-replicas", "2").returncode == 0
    path.write_text(path.read_text().replace("max_replicas_per_node: 1", "max_replicas_per_node: 2"))
    command = [sys.executable, "-m", "tests.serve.deployed_service", str(path)]
    with started(command, Path(__file__).parents[3], 1) as service, grpc.insecure_channel(service.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = codec.write_request("laborious", {"x": np.full((1, 4), 20.0, np.float32)})
        deadline = time.monotonic() + 90
        while replicas_of(service) < 2:
            assert time.monotonic() < deadline, service.output
            for call in [stub.ModelInfer.future(request, timeout=60) for _ in range(8)]:
                call.result()


def test_max_replicas_is_for_a_config_only(tmp_path: Path) -> None:
    publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    ran = serve("--registry", str(tmp_path / "registry"), "--max-replicas", "2")
    assert ran.returncode == 2
    assert "--max-replicas is for --config-out" in ran.stderr


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    publish(tmp_path / "registry", "double", scale(2.0), tmp_path)
    ran = serve("--registry", str(tmp_path / "registry"), "--config-out", str(tmp_path / "none" / "config.yaml"))
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "cannot be written" in ran.stderr
