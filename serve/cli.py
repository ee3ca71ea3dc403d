"""The command `optimize serve`."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import typer

from optimize.errors import Exit, UserError
from optimize.execution.machine import describe
from optimize.manifest import Manifest
from optimize.registry import Registry
from serve import logs, options
from serve.access import auth, auth_tokens, tls
from serve.models.compatibility import too_few_cores
from serve.plan import Frontend, Plan, Route
from serve.processes import haproxy, ports
from serve.processes.log_relay import LogFormat
from serve.processes.signals import Interrupts
from serve.served_versions import ServedModel, served_models

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9000


def serve(  # noqa: PLR0913, PLR0917 - one parameter per option
    registry: options.RegistryOption = "artifacts",
    model: options.ModelOption = None,
    host: options.HostOption = DEFAULT_HOST,
    port: options.PortOption = DEFAULT_PORT,
    replicas: options.ReplicasOption = 1,
    in_front: options.HaproxyOption = False,
    route: options.RouteOption = Route.NATIVE,
    tls_cert: options.TlsCertOption = None,
    tls_key: options.TlsKeyOption = None,
    client_ca: options.ClientCaOption = None,
    tokens: options.TokensOption = None,
    metrics_port: options.MetricsPortOption = 0,
    config_out: options.ConfigOutOption = None,
    max_replicas: options.MaxReplicasOption = None,
    insecure: options.InsecureOption = False,
    log: options.LogOption = LogFormat.AUTO,
) -> Exit:
    """Serve published models over gRPC (Open Inference Protocol) until SIGTERM or Ctrl-C."""
    files = tls.from_options(tls_cert, tls_key, client_ca)
    auth.check_exposure(host, encrypted=files is not None, insecure=insecure)
    if tokens is not None:
        auth_tokens.read(tokens)
        tokens = tokens.absolute()
    published = Registry(registry)
    models = tuple(served_models(published, model or []))
    manifests = checked_manifests(published, models)
    plan = Plan(published.place, models, host, port, replicas, route, files, tokens, metrics_port)
    if config_out is not None:
        write_config(config_out, plan, manifests, max_replicas, in_front=in_front)
    else:
        check_fits(manifests, replicas, max_replicas, len(os.sched_getaffinity(0)))
        run(with_ports(plan, in_front=in_front), manifests, published, log)
    return Exit.OK


def checked_manifests(registry: Registry, models: Sequence[ServedModel]) -> list[Manifest]:
    """The manifest of every version to start with, whose model file is there and undamaged.

    Raises:
        ArtifactError: A file is missing or damaged.
    """
    manifests = [registry.load(model.name, version) for model in models for version in model.versions]
    for manifest in manifests:
        registry.model_file(manifest)
    return manifests


def run(plan: Plan, manifests: Sequence[Manifest], published: Registry, log: LogFormat) -> None:
    """Serve until a signal comes; print one line for each version when all of them can be called."""
    from serve.rayserve import ray_patches  # noqa: PLC0415 - `optimize --help` loads no heavy library

    os.environ.update(ray_patches.environment(plan))
    from serve.rayserve import service  # noqa: PLC0415 - ray reads its settings when it is imported

    with Interrupts() as interrupts, service.running(plan, interrupts, log):
        here = describe()
        for manifest in manifests:
            typer.echo(ready_line(manifest, plan, measured_here=published.measured_on(manifest, here)))
        logs.event("ready", replicas=plan.replicas, seconds=round(time.time() - psutil.Process().create_time(), 3))
        interrupts.wait()


def write_config(
    path: Path, plan: Plan, manifests: Sequence[Manifest], max_replicas: int | None, *, in_front: bool
) -> None:
    """Write a config for a cluster, and print what it asks for.

    Raises:
        UserError: It cannot be written, or the plan is for one machine.
    """
    from serve.rayserve import cluster_config  # noqa: PLC0415 - as above

    if in_front:
        raise UserError(
            "--config-out takes no --haproxy, which balances the replicas of one machine; leave it out, and let the cluster balance"
        )
    if plan.tls is not None:
        raise UserError(
            "--config-out takes no TLS, since Serve's proxies speak none; leave out --tls-cert, --tls-key and --client-ca,"
            " and let the cluster encrypt"
        )
    sizing = cluster_config.size(manifests, plan.replicas, max_replicas)
    node = msgspec.structs.replace(
        plan,
        replicas=1,
        port=plan.port or DEFAULT_PORT,
        metrics_port=plan.metrics_port or cluster_config.DEFAULT_METRICS_PORT,
    )
    cluster_config.write(path, cluster_config.text(cluster_config.document(node, sizing)))
    upper = f" to {sizing.max_replicas}" if sizing.max_replicas > sizing.replicas else ""
    typer.echo(f"wrote {path}: {sizing.replicas}{upper} replicas of {sizing.cores} cores; next: serve deploy {path}")


def check_fits(manifests: Sequence[Manifest], replicas: int, max_replicas: int | None, cores: int) -> None:
    """Check that one machine with so many cores can run the replicas.

    Raises:
        UserError: The replicas would share cores, which no measurement covers; or their number is not fixed.
    """
    if max_replicas is not None:
        raise UserError("--max-replicas is for --config-out; on one machine use --replicas, and leave it out")
    largest = max(manifests, key=lambda manifest: manifest.artifact.options.threads)
    problem = too_few_cores(largest, cores, replicas)
    if problem is not None:
        raise UserError(problem)


def with_ports(plan: Plan, *, in_front: bool) -> Plan:
    """The plan with its ports. Behind HAProxy, the replicas have the ports after HAProxy's, on loopback and in the clear.

    Raises:
        UserError: A port is in use or needed twice, or there is no HAProxy.
    """
    first = ports.free(plan.host, plan.port, plan.replicas + in_front)
    metrics_first = ports.free(DEFAULT_HOST, plan.metrics_port, plan.replicas, "--metrics-port")
    last = first + plan.replicas + in_front - 1
    if first - plan.replicas < metrics_first <= last:
        raise UserError(
            f"the metrics' ports from {metrics_first} on are among those of calls, {first} to {last}; choose others with"
            " --metrics-port"
        )
    plan = msgspec.structs.replace(plan, port=first, metrics_port=metrics_first)
    if not in_front:
        return plan
    haproxy.binary()
    return msgspec.structs.replace(
        plan,
        host=DEFAULT_HOST,
        port=ports.free(DEFAULT_HOST, first + 1, plan.replicas),
        tls=None,
        front=Frontend(plan.host, first, plan.tls),
    )


def ready_line(manifest: Manifest, plan: Plan, *, measured_here: bool) -> str:
    """One line per version for people and for scripts: READY, the name, then key=value fields."""
    passed = sum(verdict.verdict == "PASS" for verdict in manifest.verdicts)
    fields = {
        "version": manifest.version,
        "candidate": manifest.candidate,
        "digest": manifest.digest[:12],
        "verdicts": f"{passed}/{len(manifest.verdicts)}",
        "measured": "here" if measured_here else "elsewhere",
        "address": ",".join(plan.addresses),
        "metrics": ",".join(f"{DEFAULT_HOST}:{port}" for port in plan.metrics_ports),
    }
    return " ".join(["READY", manifest.model, *(f"{key}={value}" for key, value in fields.items())])
