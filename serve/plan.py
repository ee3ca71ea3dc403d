"""What one service runs: which versions of which models, and where it listens."""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from serve.access.tls import TlsFiles
from serve.served_versions import Choice


class Route(StrEnum):
    """How a call reaches the models of a replica: from its gRPC server straight, or through Ray Serve's own handling."""

    NATIVE = "native"
    PUBLIC = "public"


class Front(Struct, frozen=True):
    """Where HAProxy takes the calls for all replicas; without `tls` they come in the clear."""

    host: str
    port: int
    tls: TlsFiles | None = None


class Plan(Struct, frozen=True):
    """The registry's absolute folder or URL, the versions of each model, the addresses of the replicas, and who may call them.

    Without `tls` calls come in the clear; without a `tokens` file nobody is asked for one. Where there is a `front`, clients call it.
    """

    registry: str
    models: tuple[Choice, ...]
    host: str
    port: int
    replicas: int = 1
    route: Route = Route.NATIVE
    tls: TlsFiles | None = None
    tokens: Path | None = None
    metrics_port: int = 0
    front: Front | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """What clients call: the front, or each replica."""
        return self.own_addresses if self.front is None else (_address(self.front.host, self.front.port),)

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """Each replica's own address: consecutive ports, one a replica."""
        return tuple(_address(self.host, self.port + index) for index in range(self.replicas))

    @property
    def metrics_ports(self) -> range:
        """Ports on loopback where the replicas tell their metrics, one each in no order; 0 lets the system choose."""
        return range(self.metrics_port, self.metrics_port + self.replicas)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
