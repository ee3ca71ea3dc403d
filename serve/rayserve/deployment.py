"""The Ray Serve deployment: one replica serves every model of the plan."""

import asyncio
import gc
import logging
import time
from functools import cached_property, partial
from pathlib import Path

import ray.serve
from ray.serve.exceptions import RayServeException

from optimize.registry import Registry
from serve import logs
from serve.access.auth import Authenticator
from serve.access.auth_tokens import AuthTokensFile
from serve.access.tls import server_credentials
from serve.models.hosting import Models
from serve.models.versions import Versions
from serve.monitoring import memory, metrics
from serve.monitoring.autoscaling_stats import AutoscalingStats
from serve.monitoring.health_check import HealthCheck
from serve.plan import Plan, Route
from serve.processes.cpu_scheduling import schedule_as_batch
from serve.rayserve import ray_patches
from serve.transport import grpc_patches
from serve.transport.public_route import PublicMethods
from serve.transport.servicer import Servicer

_ASK_TIMEOUT_S = 2.0
_COLLECT_EVERY = 20_000
_METRICS_TRIES = 60
_METRICS_PAUSE_S = 1.0


class ModelServer(PublicMethods):
    """What runs in a replica; Serve starts the replica's gRPC server when the constructor has returned."""

    async def __init__(self, plan: Plan, relay: Path | None) -> None:  # type: ignore[misc] # Serve awaits an async constructor
        began = time.monotonic()
        logs.begin(relay, replica=ray.serve.get_replica_context().replica_id.unique_id)
        schedule_as_batch()
        grpc_patches.accept_many()
        ray_patches.configure_server(plan.host, partial(server_credentials, plan.tls) if plan.tls else None)
        registry = Registry(plan.registry)
        self._models = Models(model.name for model in plan.models)
        tokens = AuthTokensFile(plan.tokens).current if plan.tokens else None
        self.servicer = Servicer(self._models, Authenticator(tokens))
        ray_patches.set_servicer(self.servicer, native=plan.route is Route.NATIVE)
        self._health = HealthCheck(self._slow_replicas)
        self._stats = AutoscalingStats()
        self._metrics = asyncio.create_task(self._serve_metrics(plan.metrics_ports))
        self._versions = Versions(self._models, registry, plan.models, plan.replicas)
        await self._versions.load()
        _freeze_loaded_objects()
        self._log_ready(time.monotonic() - began)

    async def check_health(self) -> None:
        """Ray Serve calls this every few seconds, and replaces a replica that raises three times in a row.

        Raises:
            RuntimeError: The sessions of a model are sick.
        """
        problem = await self._health.problem(self._models.loaded)
        if problem is not None:
            logs.event("unhealthy", logging.ERROR, reason=problem)
            raise RuntimeError(problem)

    async def slow(self) -> bool:
        """Whether this replica is slow; the other replicas ask."""
        return self._health.slow

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve calls this if it scales the service, and passes the figures to the policy."""
        return self._stats.report(self._models.loaded)

    async def drain(self) -> None:
        """Take no more calls, and return when the accepted ones are answered."""
        logs.event("draining")
        await self._versions.stop()
        await self._models.drain()
        logs.event("drained")

    @cached_property
    def _replicas(self) -> ray.serve.handle.DeploymentHandle:
        me = ray.serve.get_replica_context()
        return ray.serve.get_deployment_handle(me.deployment, me.app_name)

    async def _slow_replicas(self) -> list[bool]:
        """Whether each replica is slow; if none answers, nothing shows that another one would be faster than this one."""
        try:
            answers = await self._replicas.broadcast("slow").results_async(
                timeout_s=_ASK_TIMEOUT_S, return_exceptions=True
            )
        except (TimeoutError, RayServeException) as error:
            logs.event("replicas_silent", logging.WARNING, error)
            return [True]
        return [answer for answer in answers if isinstance(answer, bool)] or [True]

    def _log_ready(self, seconds: float) -> None:
        """Log how long this replica took to start, and its idle memory; a warning if that is over budget already."""
        resident_mb = memory.resident_mb()
        peak = memory.total_peak_memory([version.manifest for version in self._models.loaded])
        over = peak is not None and resident_mb > peak.budget_mb
        logs.event(
            "replica_ready",
            logging.WARNING if over else logging.INFO,
            seconds=round(seconds, 3),
            resident_mb=round(resident_mb, 1),
            measured_peak_mb=peak and round(peak.measured_peak_mb, 1),
            budget_mb=peak and peak.budget_mb,
        )

    async def _serve_metrics(self, ports: range) -> None:
        """Answer scrapes; the replica that this one replaces may keep its port for a moment."""
        collector = metrics.ReplicaCollector(self._models, self.servicer.calls)
        for _ in range(_METRICS_TRIES):
            if metrics.listen(collector, ports) is not None:
                return
            await asyncio.sleep(_METRICS_PAUSE_S)
        logs.event("no_metrics", logging.WARNING, ports=[*ports], reason="the ports are in use")


def _freeze_loaded_objects() -> None:
    """Keep the garbage collector from walking over everything that was loaded for good, every few hundred calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
