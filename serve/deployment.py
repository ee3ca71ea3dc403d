"""The Ray Serve deployment: one replica hosts every model of the plan."""

from optimize.registry import Registry
from serve import hardening
from serve.hosting import Models
from serve.plan import Plan, Route
from serve.routes import PublicMethods
from serve.servicer import Servicer


class ModelServer(PublicMethods):
    """What runs in a replica; Serve starts the replica's gRPC server once the constructor has returned."""

    async def __init__(self, plan: Plan) -> None:  # type: ignore[misc] # Serve awaits an async constructor
        hardening.bind_replica_to(plan.host)
        registry = Registry(plan.registry)
        self._models = Models(plan.versions)
        self.servicer = Servicer(self._models)
        if plan.route is Route.NATIVE:
            hardening.answer_natively(self.servicer)
        for name, version in plan.versions.items():
            await self._models.load(registry, registry.load(name, version), plan.replicas)

    async def drain(self) -> None:
        """Take no more calls, and return when the accepted ones are answered."""
        await self._models.drain()
