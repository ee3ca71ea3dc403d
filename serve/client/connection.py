"""How a caller reaches a service: its address, encryption, and auth token."""

import ipaddress
from pathlib import Path
from typing import Any

import grpc
from msgspec import Struct

from optimize.errors import UserError
from serve.addresses import is_loopback
from serve.metadata_keys import AUTHORIZATION

Options = tuple[tuple[str, int | str], ...]

_CHANNEL_OPTIONS: Options = (
    ("grpc.enable_http_proxy", 0),  # a web proxy does not pass on these calls
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # gRPC's default of two minutes is longer than a restart of the server
    # Despite its name, the time that an attempt to connect may take; by default gRPC uses the backoff for that as well.
    ("grpc.min_reconnect_backoff_ms", 5_000),
)
_ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
_LOCAL_SCHEMES = ("unix:", "unix-abstract:")


class Connection(Struct, frozen=True):
    """HOST:PORT with its encryption and token; or several addresses, separated by commas, one for each replica of a service.

    Several addresses must be IP addresses, and are called in turn, except those that do not answer; a single name may stand for
    several. TLS is on if `tls` or a PEM file asks for it. `ca` is the authority to check the server's certificate against, by
    default those that come with gRPC; `cert` and `key` are the caller's own, for mutual TLS. Only with `insecure` is a token sent
    to another machine in the clear.

    Raises:
        UserError: The parts do not go together.
    """

    address: str
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        if len(self._hosts) > 1 and {_version(host) for host in self._hosts} not in ({4}, {6}):
            raise UserError(
                f"{self.address}: wanted IP addresses of one version; give one address, or a name that stands for all"
            )
        if (self.cert is None) != (self.key is None):
            raise UserError(
                "the caller's certificate was given without its key, or the key alone; give both, or neither"
            )
        if self.token and not (self.encrypted or self.insecure or self._local):
            raise UserError(
                f"a token for {self.address} would travel in the clear; use TLS, or insecure where something else encrypts"
            )
        if not self.token.isascii() or self.token.split() not in ([self.token], []):
            raise UserError(
                "the token has spaces or other characters that no token has; give it exactly as it was made"
            )

    def __repr__(self) -> str:
        """Without the token, since this may be logged."""
        return f"Connection({self.address!r}, encrypted={self.encrypted}, token={'given' if self.token else 'none'})"

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on."""
        return self.tls or self.ca is not None or self.cert is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return ((AUTHORIZATION, f"Bearer {self.token}"),) if self.token else ()

    @property
    def _hosts(self) -> list[str]:
        return [address.rpartition(":")[0].strip("[]") for address in self.address.split(",")]

    @property
    def _local(self) -> bool:
        return self.address.startswith(_LOCAL_SCHEMES) or all(is_loopback(host) for host in self._hosts)

    def channel(self, options: Options) -> grpc.Channel:
        """A channel for blocking calls.

        Raises:
            UserError: A PEM file cannot be read.
        """
        return self._open(grpc, options)

    def aio_channel(self, options: Options) -> grpc.aio.Channel:
        """A channel for calls on the running event loop.

        Raises:
            UserError: A PEM file cannot be read.
        """
        return self._open(grpc.aio, options)

    def _open(self, library: Any, options: Options) -> Any:
        target = self.address
        options = (*_CHANNEL_OPTIONS, *options)
        if len(self._hosts) > 1:
            target = f"ipv{_version(self._hosts[0])}:{self.address}"
            # Certificates are checked against the authority, which is the same for all replicas of a service.
            options = (*options, _ROUND_ROBIN, ("grpc.default_authority", self.address.partition(",")[0]))
        if not self.encrypted:
            return library.insecure_channel(target, options=options)
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))
        return library.secure_channel(target, credentials, options=options)


def _version(host: str) -> int | None:
    """The version of an IP address; None for a name."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; wanted a PEM file") from None
