"""The Ray Serve deployment: one replica hosts every model of the plan."""

from optimize.registry import Registry
from serve import hardening
from serve.hosting import Models
from serve.plan import Plan, Route
from serve.routes import PublicMethods
from serve.security import Gate
from serve.servicer import Servicer
from serve.tls import server_credentials
from serve.tokens import TokensFile


class ModelServer(PublicMethods):
    """What runs in a replica; Serve starts the replica's gRPC server once the constructor has returned."""

    async def __init__(self, plan: Plan) -> None:  # type: ignore[misc] # Serve awaits an async constructor
        hardening.open_replica(plan.host, server_credentials(plan.tls) if plan.tls else None)
        registry = Registry(plan.registry)
        self._models = Models(plan.versions)
        self.servicer = Servicer(self._models, Gate(TokensFile(plan.tokens).current if plan.tokens else None))
        hardening.answer_with(self.servicer, natively=plan.route is Route.NATIVE)
        for name, version in plan.versions.items():
            await self._models.load(registry, registry.load(name, version), plan.replicas)

    async def drain(self) -> None:
        """Take no more calls, and return when the accepted ones are answered."""
        await self._models.drain()
