"""TLS files of a service: checked before anything starts, loaded by each replica, and loaded again when they are renewed."""

import logging
import ssl
from pathlib import Path
from typing import Any

from msgspec import Struct

from optimize.errors import UserError
from serve import logs
from serve.access.watched_files import WatchedFiles


class TlsFiles(Struct, frozen=True):
    """PEM files: the server's certificate chain and its key, and a CA if clients must have a certificate of it (mutual TLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)


def from_options(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """The files that the options name; None without TLS.

    Raises:
        UserError: An option is missing, or a file cannot be used.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        missing = [name for name, path in (("--tls-cert", cert), ("--tls-key", key)) if path is None]
        raise UserError(f"TLS was asked for without {' and '.join(missing)}; give both, or no option of TLS")
    files = TlsFiles(cert.absolute(), key.absolute(), client_ca and client_ca.absolute())
    check(files)
    return files


def check(files: TlsFiles) -> None:
    """Load the files as a TLS server does.

    Raises:
        UserError: One cannot be read, is not a PEM file of its kind, or the key belongs to another certificate.
    """
    read(files.cert, "--tls-cert")
    read(files.key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(
            files.cert
        )  # distinguishes a file without a certificate from one whose key does not match
    except ssl.SSLError:
        raise UserError(f"{files.cert}: holds no certificate; wanted a PEM file for --tls-cert") from None
    try:
        # Without the callback, OpenSSL would prompt for a password on the terminal.
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UserError(
                f"{files.key}: is not the key of {files.cert}; wanted the key that the certificate was made for"
            ) from None
        raise UserError(
            f"{files.key}: holds no private key that can be read; wanted a PEM file without a password for --tls-key"
        ) from None
    if files.client_ca is not None:
        read(files.client_ca, "--client-ca")
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError:
            raise UserError(f"{files.client_ca}: holds no certificate; wanted a PEM file for --client-ca") from None


def server_credentials(files: TlsFiles) -> Any:
    """The files as grpc.ServerCredentials for one port; every new connection uses their current contents.

    With a client CA, a client without a certificate of it is refused. If the files change to something that cannot be used,
    connections use the previous contents.
    """
    import grpc  # noqa: PLC0415 - `serve.cli` checks the files without it

    watched = WatchedFiles(files.paths)  # before they are read, so that no change is missed

    def configuration() -> Any:
        roots = read(files.client_ca, "--client-ca") if files.client_ca else None
        pair = read(files.key, "--tls-key"), read(files.cert, "--tls-cert")
        return grpc.ssl_server_certificate_configuration([pair], roots)

    def renewed() -> Any:
        """GRPC calls this at every handshake; None keeps what it has."""
        if not watched.changed():
            return None
        try:
            check(files)
            fresh = configuration()
        except (UserError, OSError) as error:  # OSError: a file went away between two reads
            logs.event("certificate_refused", logging.ERROR, reason=str(error), instead="that of before stays in use")
            return None
        logs.event("certificate_changed", file=str(files.cert))
        return fresh

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, files.client_ca is not None)


def read(path: Path, option: str) -> bytes:
    """The bytes of a PEM file.

    Raises:
        UserError: It cannot be read; the text names the option to use.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a PEM file with {option}") from None
