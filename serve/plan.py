"""What one service runs: which versions of which models, and where it listens."""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from serve.access.tls import TlsFiles
from serve.served_versions import ServedModel


class Route(StrEnum):
    """How a call reaches the models of a replica: directly from its gRPC server, or through Ray Serve's own handling."""

    NATIVE = "native"
    PUBLIC = "public"


class Frontend(Struct, frozen=True):
    """Where HAProxy accepts the calls for all replicas; without `tls`, in the clear."""

    host: str
    port: int
    tls: TlsFiles | None = None


class Plan(Struct, frozen=True):
    """The registry's absolute folder or URL, the versions of each model, the addresses of the replicas, and who may call them.

    Without `tls` calls come in the clear; without a `tokens` file, calls need no token. If there is a `front`, clients call HAProxy.
    Config files for clusters contain these fields.
    """

    registry: str
    models: tuple[ServedModel, ...]
    host: str
    port: int
    replicas: int = 1
    route: Route = Route.NATIVE
    tls: TlsFiles | None = None
    tokens: Path | None = None
    metrics_port: int = 0
    front: Frontend | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """What clients call: HAProxy, or each replica."""
        return self.replica_addresses if self.front is None else (_address(self.front.host, self.front.port),)

    @property
    def replica_addresses(self) -> tuple[str, ...]:
        """The address of each replica: consecutive ports, one per replica."""
        return tuple(_address(self.host, self.port + index) for index in range(self.replicas))

    @property
    def metrics_ports(self) -> range:
        """Ports on loopback for the metrics, one per replica in no fixed order; 0 lets the system choose."""
        return range(self.metrics_port, self.metrics_port + self.replicas)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
