"""A config file for Ray's own `serve deploy`, with every number taken from the budgets and from what was measured.

One replica a node: it hosts every model, with as many sessions as the operating point has that was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import msgspec

from optimize.errors import UserError
from optimize.manifest import Manifest, OperatingPoint
from serve.models.hosting import DEFAULT_TIMEOUT_S, queued_rows
from serve.monitoring import autoscaling
from serve.plan import Plan
from serve.transport.handlers import MAX_MESSAGE_BYTES

BUILDER = "serve.rayserve.service:deployed"
"""Import path of the function that makes the application of the arguments in the file."""

MAX_LOAD = 0.7
"""Share of the measured throughput that the declared one may take: at more, waiting grows steeply (M/D/1: 1.2 executions at 0.7)."""

DRAIN_MARGIN_S = 5.0

UPSCALE_DELAY_S = 5.0
"""How long more replicas must have been wanted, on the mean that Serve takes of 30 s: shorter bursts are the queues' to take."""

DEFAULT_METRICS_PORT = 9100

NODE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Serve does not see calls that a replica takes itself, and so gives every call the time that it may take.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{DEFAULT_TIMEOUT_S:g}",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_MESSAGE_BYTES),
}


@dataclass(frozen=True)
class Sizing:
    """What the cluster is asked for.

    `cores` are one replica's. `max_ongoing` calls fill the queues of one replica. `max_queued` calls, waiting at a proxy, can still be
    answered within their p99; where nobody measured, as many again. A replica that is stopped has `drain_s` for the calls that
    it accepted. Where there may be more than `replicas`, up to `max_replicas`, the autoscaler adds one when what waits takes longer
    than `target_drain_s`.
    """

    replicas: int
    max_replicas: int
    cores: int
    max_ongoing: int
    max_queued: int
    drain_s: float
    target_drain_s: float


def sized(manifests: Sequence[Manifest], replicas: int = 1, max_replicas: int | None = None) -> Sizing:
    """What these models need together; at least so many `replicas`, and as many always unless there may be more.

    Raises:
        UserError: A model declares a throughput, but was published before operating points were measured; or it needs more replicas
            than there may be.
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
    """Replicas' worth of work that the declared throughput is."""
    qps = manifest.budgets.throughput.qps
    return 0.0 if qps is None else qps * manifest.budgets.latency.batch / _online(manifest).rows_per_s


def _calls_per_s(manifest: Manifest) -> float:
    """What one replica was measured to answer; 0 where nobody measured."""
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
            f"{manifest.model} version {manifest.version}: declares {manifest.budgets.throughput.qps:g} requests a second, but"
            " holds no operating point to tell how many replicas that takes; export the model again"
        )
    return manifest.online


def document(plan: Plan, sizing: Sizing) -> dict[str, Any]:
    """The file's content, as Ray's ServeDeploySchema wants it; what it leaves out, the builder says."""
    return {
        "grpc_options": {
            "port": plan.port,
            "grpc_servicer_functions": ["serve.rayserve.ray_patches.add_services"],
            "enable_reflection": False,  # a proxy knows no tokens; the replicas answer reflection themselves
        },
        "http_options": {"host": "127.0.0.1"},
        "applications": [
            {
                "name": "proveserve",
                "route_prefix": None,
                "import_path": BUILDER,
                "args": msgspec.to_builtins(plan, enc_hook=_plain),
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
    """The plan that a file's arguments stand for.

    Raises:
        UserError: They are not what :func:`document` writes.
    """
    try:
        return msgspec.convert(arguments, Plan, dec_hook=_rich)
    except msgspec.ValidationError as error:
        raise UserError(
            f"the config's args are no plan of this release: {error}; write the file again with `optimize serve --config-out`"
        ) from None


def text(document: dict[str, Any]) -> str:
    """The file: what each node must have in its environment as comments, then the document as YAML."""
    lines = [
        "# For `serve deploy`. Every node needs this release, the registry and the files that `args` names, and these variables",
        "# before `ray start`; with them a replica answers calls itself, on a port of its own from 40000 on:",
        *(f"#   {name}={value}" for name, value in NODE_ENVIRONMENT.items()),
        "# Ray's ports and Serve's are open to whoever reaches the node, without TLS: let a network policy say who does.",
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


def _plain(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(type(value))


def _rich(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(wanted)
