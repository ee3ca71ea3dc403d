"""A config file for Ray's own `serve deploy`; all its numbers come from the budgets and from measurements.

There is one replica per node. It serves every model, with as many sessions as the measured operating point has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import msgspec

from optimize.errors import UserError
from optimize.manifest import Manifest, OperatingPoint
from serve.models.loading import DEFAULT_TIMEOUT_S, queued_rows
from serve.monitoring import autoscaling
from serve.plan import Plan
from serve.transport.limits import MAX_MESSAGE_BYTES

BUILDER = "serve.rayserve.service:deployed"
"""Import path of the function that builds the application from the arguments in the file."""

MAX_LOAD = 0.7
"""Share of the measured throughput that the declared one may use: above it, queues grow steeply (M/D/1: 1.2 executions at 0.7)."""

DRAIN_MARGIN_S = 5.0

UPSCALE_DELAY_S = 5.0
"""How long the policy must ask for more replicas, on Serve's mean over 30 s; queues absorb shorter bursts."""

DEFAULT_METRICS_PORT = 9100

NODE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Serve does not see calls that a replica takes directly, so it waits as long as any call may take.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{DEFAULT_TIMEOUT_S:g}",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
}


@dataclass(frozen=True)
class Sizing:
    """What the cluster has to provide.

    One replica takes `cores`, and `max_ongoing` calls fill its queues. `max_queued` calls at a proxy can still be answered within
    their p99; without a measurement, it equals `max_ongoing`. A replica that is stopped has `drain_s` for the calls that it
    accepted. From `replicas` up to `max_replicas`, the autoscaler adds one when the queues take longer than `target_drain_s`.
    """

    replicas: int
    max_replicas: int
    cores: int
    max_ongoing: int
    max_queued: int
    drain_s: float
    target_drain_s: float


def size(manifests: Sequence[Manifest], replicas: int = 1, max_replicas: int | None = None) -> Sizing:
    """What these models need together, with at least `replicas`; without `max_replicas`, their number is fixed.

    Raises:
        UserError: A model declares a throughput, but was published before operating points were measured; or it needs more than
            `max_replicas`.
    """
    share = sum(_share(manifest) for manifest in manifests)
    count = max(replicas, math.ceil(share / MAX_LOAD))
    if max_replicas is not None and max_replicas < count:
        raise UserError(
            f"--max-replicas is {max_replicas}, but the declared throughput takes {count}; raise it, or leave it out"
        )
    queued = sum(_calls_per_s(manifest) * _p99_s(manifest) for manifest in manifests) * count
    ongoing = sum(queued_rows(one.signature) + _instances(one) * one.signature.max_batch for one in manifests)
    return Sizing(
        replicas=count,
        max_replicas=max_replicas or count,
        cores=max(_instances(manifest) * manifest.artifact.options.threads for manifest in manifests),
        max_ongoing=ongoing,
        max_queued=math.ceil(queued) or ongoing,
        drain_s=DEFAULT_TIMEOUT_S + DRAIN_MARGIN_S,
        target_drain_s=min(_p99_s(manifest) for manifest in manifests) / 2,
    )


def _share(manifest: Manifest) -> float:
    """How many replicas the declared throughput keeps busy."""
    qps = manifest.budgets.throughput.qps
    return 0.0 if qps is None else qps * manifest.budgets.latency.batch / _online(manifest).rows_per_s


def _calls_per_s(manifest: Manifest) -> float:
    """The measured throughput of one replica; 0 without a measurement."""
    measured = manifest.online
    return 0.0 if measured is None else measured.rows_per_s / manifest.budgets.latency.batch


def _p99_s(manifest: Manifest) -> float:
    budgets = manifest.budgets
    declared_ms = budgets.throughput.p99_ms or budgets.latency.p99_ms
    return DEFAULT_TIMEOUT_S if declared_ms is None else declared_ms / 1e3


def _instances(manifest: Manifest) -> int:
    return 1 if manifest.online is None else manifest.online.instances


def _online(manifest: Manifest) -> OperatingPoint:
    if manifest.online is None:
        raise UserError(
            f"{manifest.model} version {manifest.version}: declares {manifest.budgets.throughput.qps:g} requests per second, but"
            " has no operating point that shows how many replicas that takes; export the model again"
        )
    return manifest.online


def document(plan: Plan, sizing: Sizing) -> dict[str, Any]:
    """The content of the file, for Ray's ServeDeploySchema; the builder sets what is left out here."""
    return {
        "grpc_options": {
            "port": plan.port,
            "grpc_servicer_functions": ["serve.rayserve.ray_patches.add_services"],
            "enable_reflection": False,  # a proxy checks no tokens; the replicas answer reflection themselves
        },
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "proveserve",
                "route_prefix": None,
                "import_path": BUILDER,
                "args": msgspec.to_builtins(plan, enc_hook=_encode_path),
                "deployments": [
                    {
                        "name": "models",
                        **_scale(sizing),
                        "max_replicas_per_node": 1,
                        "max_ongoing_requests": sizing.max_ongoing,
                        "max_queued_requests": sizing.max_queued,
                        "graceful_shutdown_timeout_s": sizing.drain_s,
                        "ray_actor_options": {"num_cpus": sizing.cores},
                    }
                ],
            }
        ],
    }


def _scale(sizing: Sizing) -> dict[str, Any]:
    if sizing.max_replicas == sizing.replicas:
        return {"num_replicas": sizing.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": sizing.replicas,
            "max_replicas": sizing.max_replicas,
            "upscale_delay_s": UPSCALE_DELAY_S,
            "policy": {
                "policy_function": autoscaling.POLICY,
                "policy_kwargs": {"target_drain_s": sizing.target_drain_s, "max_load": MAX_LOAD},
            },
        }
    }


def plan_of(arguments: dict[str, Any]) -> Plan:
    """The plan in the arguments of a file.

    Raises:
        UserError: They are not what :func:`document` writes.
    """
    try:
        return msgspec.convert(arguments, Plan, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise UserError(
            f"the config's args are no plan of this release: {error}; write the file again with `optimize serve --config-out`"
        ) from None


def text(document: dict[str, Any]) -> str:
    """The file: the environment variables that each node needs as comments, then the document as YAML."""
    lines = [
        "# For `serve deploy`. Every node needs this release, the registry and the files that `args` names, and these variables",
        "# before `ray start`; with them a replica answers calls itself, on a port of its own from 40000 on:",
        *(f"#   {name}={value}" for name, value in NODE_ENVIRONMENT.items()),
        "# Ray's ports and Serve's are open to everyone who can reach the node, without TLS: restrict that with a network policy.",
    ]
    return "\n".join(lines) + "\n" + msgspec.yaml.encode(document).decode()


def write(path: Path, content: str) -> None:
    """Write the file.

    Raises:
        UserError: It cannot be written there.
    """
    try:
        path.write_text(content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; choose another place with --config-out"
        ) from None


def _encode_path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(type(value))


def _decode_path(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(wanted)
