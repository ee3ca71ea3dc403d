"""The command `optimize serve`."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from optimize.errors import Exit, UserError
from optimize.execution.machine import describe
from optimize.manifest import Manifest
from optimize.registry import Registry
from serve import logs
from serve.access import auth, tls
from serve.access.auth_tokens import read as read_tokens
from serve.models.compatibility import crowding
from serve.plan import Front, Plan, Route
from serve.processes import haproxy, ports
from serve.processes.signals import Interrupts
from serve.served_versions import chosen

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9000


def serve(  # noqa: PLR0913, PLR0917 - one parameter per option
    registry: Annotated[
        str, typer.Option(help="Registry that `optimize export` published to: a folder or s3://bucket/prefix.")
    ] = "artifacts",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to serve, or MODEL@VERSION to stay with; may be repeated. Default: all."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(help="Port of the first replica, or of HAProxy; 0 picks a free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    replicas: Annotated[int, typer.Option(help="Processes that serve, each on a port of its own.", min=1)] = 1,
    in_front: Annotated[
        bool, typer.Option("--haproxy", help="One address for all replicas: HAProxy spreads the calls over them.")
    ] = False,
    route: Annotated[
        Route, typer.Option(help="Straight to the models, or through Ray Serve's own handling.")
    ] = Route.NATIVE,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM file of the certificate chain to serve with; takes --tls-key.", dir_okay=False),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate's key, without a password.", dir_okay=False)
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file of a CA: only clients with a certificate of it may connect.", dir_okay=False),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Tokens file of `optimize token`: calls need a token of it.", dir_okay=False)
    ] = None,
    metrics_port: Annotated[
        int,
        typer.Option(help="Port of the first replica's metrics, on loopback; 0 picks a free one.", min=0, max=65535),
    ] = 0,
    config_out: Annotated[
        Path | None,
        typer.Option(
            help="Serve nothing; write a config for Ray's `serve deploy`, sized by the budgets.", dir_okay=False
        ),
    ] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="With --config-out: scale with the load, up to so many replicas.", min=1)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines call without TLS.")] = False,
) -> Exit:
    """Serve published models over gRPC (Open Inference Protocol) until SIGTERM or Ctrl-C."""
    tls_files = tls.chosen(tls_cert, tls_key, client_ca)
    auth.check_exposure(host, encrypted=tls_files is not None, insecure=insecure)
    if tokens is not None:
        read_tokens(tokens)
    published = Registry(registry)
    choices = chosen(published, model or [])
    manifests = [published.load(choice.name, version) for choice in choices for version in choice.versions]
    for manifest in manifests:
        published.model_file(manifest)
    plan = Plan(
        registry=published.place,
        models=tuple(choices),
        host=host,
        port=port,
        replicas=replicas,
        route=route,
        tls=tls_files,
        tokens=tokens and tokens.absolute(),
        metrics_port=metrics_port,
    )
    if config_out is not None:
        if in_front:
            raise UserError(
                "--config-out takes no --haproxy, which stands in front of one machine's replicas; leave it out, and let the cluster"
                " balance"
            )
        write_config(config_out, plan, manifests, max_replicas)
        return Exit.OK
    if max_replicas is not None:
        raise UserError(
            "--max-replicas is for --config-out: on one machine, --replicas says how many there are; leave it out"
        )
    check_cores(manifests, replicas, len(os.sched_getaffinity(0)))
    run(listening(plan, in_front=in_front), manifests, published)
    return Exit.OK


def run(plan: Plan, manifests: Sequence[Manifest], published: Registry) -> None:
    """Serve until a signal comes; one line for each version once all can be called."""
    from serve.rayserve import ray_patches  # noqa: PLC0415 - `optimize --help` loads no heavy library

    os.environ.update(ray_patches.environment(plan))
    from serve.rayserve import service  # noqa: PLC0415 - ray reads its settings when it is imported

    with Interrupts() as interrupts, service.running(plan, interrupts):
        here = describe()
        for manifest in manifests:
            typer.echo(ready_line(manifest, plan, measured_here=published.measured_on(manifest, here)))
        logs.tell("ready", replicas=plan.replicas, seconds=round(time.time() - psutil.Process().create_time(), 3))
        interrupts.wait()


def write_config(path: Path, plan: Plan, manifests: Sequence[Manifest], max_replicas: int | None) -> None:
    """Write the config of the plan for a cluster, and say what it asks for.

    Raises:
        UserError: It cannot be written, or the plan is not one for a cluster.
    """
    from serve.rayserve import cluster_config  # noqa: PLC0415 - as above

    if plan.tls is not None:
        raise UserError(
            "--config-out takes no TLS, since Serve's proxies speak none; leave out --tls-cert, --tls-key and --client-ca,"
            " and let the cluster encrypt"
        )
    sizing = cluster_config.sized(manifests, plan.replicas, max_replicas)
    node = msgspec.structs.replace(
        plan,
        replicas=1,
        port=plan.port or DEFAULT_PORT,
        metrics_port=plan.metrics_port or cluster_config.DEFAULT_METRICS_PORT,
    )
    cluster_config.write(path, cluster_config.text(cluster_config.document(node, sizing)))
    upper = f" to {sizing.max_replicas}" if sizing.max_replicas > sizing.replicas else ""
    typer.echo(f"wrote {path}: {sizing.replicas}{upper} replicas of {sizing.cores} cores; next: serve deploy {path}")


def check_cores(manifests: Sequence[Manifest], replicas: int, cores: int) -> None:
    """Refuse more replicas than there are cores for.

    Raises:
        UserError: The replicas would share cores, which no measurement covers.
    """
    hungriest = max(manifests, key=lambda manifest: manifest.artifact.options.threads)
    reason = crowding(hungriest, cores, replicas)
    if reason is not None:
        raise UserError(reason)


def listening(plan: Plan, *, in_front: bool) -> Plan:
    """The plan with the ports that it takes; behind HAProxy, the replicas have those after its own, on loopback and in the clear.

    Raises:
        UserError: A port is in use, or asked for twice, or there is no HAProxy.
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
        front=Front(plan.host, first, plan.tls),
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
