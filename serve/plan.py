"""What one service runs: which versions of which models, and where it listens."""

from enum import StrEnum

from msgspec import Struct


class Route(StrEnum):
    """How a call reaches the models of a replica: from its gRPC server straight, or through Ray Serve's own handling."""

    NATIVE = "native"
    PUBLIC = "public"


class Plan(Struct, frozen=True):
    """The registry's absolute folder or URL, the version of each model, and the addresses of the replicas."""

    registry: str
    versions: dict[str, int]
    host: str
    port: int
    replicas: int = 1
    route: Route = Route.NATIVE

    @property
    def addresses(self) -> tuple[str, ...]:
        """Each replica's own address: consecutive ports, one a replica."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return tuple(f"{host}:{self.port + index}" for index in range(self.replicas))
