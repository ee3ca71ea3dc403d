"""A certificate authority of the tests' own, and PEM files of what it issues."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority, a server's chain and key for loopback, and a client's."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def channel_credentials(self, *, client: bool = True) -> grpc.ChannelCredentials:
        """What a caller connects with."""
        if not client:
            return grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(), self.client_key.read_bytes(), self.client.read_bytes()
        )


def issue(folder: Path) -> Certificates:
    """A new authority, which knows nobody that another one has issued for."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    found = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
    authority.cert_pem.write_to_path(found.ca)
    for pair, chain, key in (
        (authority.issue_cert("localhost", "127.0.0.1", "::1"), found.server, found.server_key),
        (authority.issue_cert("caller@example.org"), found.client, found.client_key),
    ):
        chain.write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        pair.private_key_pem.write_to_path(key)
    return found
