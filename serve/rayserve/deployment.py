"""The Ray Serve deployment: one replica hosts every model of the plan."""

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
from serve.access.auth import Gate
from serve.access.auth_tokens import TokensFile
from serve.access.tls import server_credentials
from serve.models.hosting import Models
from serve.models.versions import Versions
from serve.monitoring import memory, metrics
from serve.monitoring.health_check import Checkup
from serve.monitoring.load_meter import LoadMeter
from serve.plan import Plan, Route
from serve.rayserve import ray_patches
from serve.transport import grpc_patches
from serve.transport.handlers import PublicMethods
from serve.transport.servicer import Servicer

_ASK_TIMEOUT_S = 2.0
_COLLECT_EVERY = 20_000
_METRICS_TRIES = 60
_METRICS_PAUSE_S = 1.0


class ModelServer(PublicMethods):
    """What runs in a replica; Serve starts the replica's gRPC server once the constructor has returned."""

    async def __init__(self, plan: Plan, relay: Path | None) -> None:  # type: ignore[misc] # Serve awaits an async constructor
        began = time.monotonic()
        logs.begin(relay, replica=ray.serve.get_replica_context().replica_id.unique_id)
        grpc_patches.take_turns()
        grpc_patches.accept_together()
        ray_patches.open_replica(plan.host, partial(server_credentials, plan.tls) if plan.tls else None)
        registry = Registry(plan.registry)
        self._models = Models(choice.name for choice in plan.models)
        self.servicer = Servicer(self._models, Gate(TokensFile(plan.tokens).current if plan.tokens else None))
        ray_patches.answer_with(self.servicer, natively=plan.route is Route.NATIVE)
        self._checkup = Checkup(self._slow_replicas)
        self._load = LoadMeter()
        self._metrics = asyncio.create_task(self._tell_metrics(plan.metrics_ports))
        self._versions = Versions(self._models, registry, plan.models, plan.replicas)
        await self._versions.load()
        _set_loaded_aside()
        self._tell_ready(time.monotonic() - began)

    async def check_health(self) -> None:
        """Ray Serve asks every few seconds, and replaces a replica that raises three times running.

        Raises:
            RuntimeError: A model's sessions are sick.
        """
        ailment = await self._checkup.ailment(self._models.hosted)
        if ailment is not None:
            logs.tell("unhealthy", logging.ERROR, reason=ailment)
            raise RuntimeError(ailment)

    async def slow(self) -> bool:
        """Whether this replica is slow, for the others to know."""
        return self._checkup.slow

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Ray Serve asks where it scales the service, and hands it to the policy."""
        return self._load.read(self._models.hosted)

    async def drain(self) -> None:
        """Take no more calls, and return when the accepted ones are answered."""
        logs.tell("draining")
        await self._versions.stop()
        await self._models.drain()
        logs.tell("drained")

    @cached_property
    def _replicas(self) -> ray.serve.handle.DeploymentHandle:
        me = ray.serve.get_replica_context()
        return ray.serve.get_deployment_handle(me.deployment, me.app_name)

    async def _slow_replicas(self) -> list[bool]:
        """Whether each replica is slow; where none answers, nothing shows that another would be faster than this one."""
        try:
            answers = await self._replicas.broadcast("slow").results_async(
                timeout_s=_ASK_TIMEOUT_S, return_exceptions=True
            )
        except (TimeoutError, RayServeException) as error:
            logs.tell("replicas_silent", logging.WARNING, error)
            return [True]
        return [answer for answer in answers if isinstance(answer, bool)] or [True]

    def _tell_ready(self, seconds: float) -> None:
        """What this replica took to start, and the memory that it takes idle; a warning where that is over budget already."""
        resident_mb = memory.resident_mb()
        allowed = memory.together([hosted.manifest for hosted in self._models.hosted])
        over = allowed is not None and resident_mb > allowed.budget_mb
        logs.tell(
            "replica_ready",
            logging.WARNING if over else logging.INFO,
            seconds=round(seconds, 3),
            resident_mb=round(resident_mb, 1),
            measured_peak_mb=allowed and round(allowed.measured_peak_mb, 1),
            budget_mb=allowed and allowed.budget_mb,
        )

    async def _tell_metrics(self, ports: range) -> None:
        """Answer scrapes; a replica that this one replaces may hold on to the port for a moment."""
        collector = metrics.Collector(self._models, self.servicer.calls)
        for _ in range(_METRICS_TRIES):
            if metrics.listen(collector, ports) is not None:
                return
            await asyncio.sleep(_METRICS_PAUSE_S)
        logs.tell("no_metrics", logging.WARNING, ports=[*ports], reason="the ports are in use")


def _set_loaded_aside() -> None:
    """Spare the garbage collector what a replica has loaded for good: it would walk over it with every few hundred calls."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
