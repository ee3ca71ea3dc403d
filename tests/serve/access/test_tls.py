import os
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from optimize.errors import UserError
from serve import logs
from serve.access import tls, watched_files
from serve.access.tls import TlsFiles
from tests.certificates import Certificates, issue

AUTHORITY = trustme.CA()
MINE, OTHER = (AUTHORITY.issue_cert("localhost") for _ in range(2))


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    paths = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    paths.cert.write_bytes(b"".join(blob.bytes() for blob in MINE.cert_chain_pems))
    paths.key.write_bytes(MINE.private_key_pem.bytes())
    paths.client_ca.write_bytes(AUTHORITY.cert_pem.bytes())
    return paths


def test_no_option_is_no_tls() -> None:
    assert tls.from_options(None, None, None) is None


def test_files_that_fit_are_taken_with_absolute_paths(files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.cert.parent)
    assert tls.from_options(Path("cert.pem"), Path("key.pem"), Path("ca.pem")) == files
    assert tls.from_options(files.cert, files.key, None) == TlsFiles(files.cert, files.key)
    assert tls.server_credentials(files) is not None


@pytest.mark.parametrize(
    ("given", "missing"), [("cert", "--tls-key"), ("key", "--tls-cert"), ("client_ca", "--tls-cert and --tls-key")]
)
def test_half_of_tls_is_refused(files: TlsFiles, given: str, missing: str) -> None:
    options = {name: getattr(files, name) if name == given else None for name in ("cert", "key", "client_ca")}
    with pytest.raises(UserError, match=f"TLS was asked for without {missing};"):
        tls.from_options(**options)


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_a_missing_file_is_named_with_its_option(files: TlsFiles, name: str) -> None:
    path = getattr(files, name)
    path.unlink()
    with pytest.raises(
        UserError, match=f"{path.name}: cannot be read: No such file or directory; name a PEM file with --"
    ):
        tls.check(files)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_key_is_named(files: TlsFiles) -> None:
    files.key.chmod(0)
    with pytest.raises(UserError, match=r"key\.pem: cannot be read: Permission denied"):
        tls.check(files)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("cert", "holds no certificate; wanted a PEM file for --tls-cert"),
        ("key", "holds no private key that can be read"),
        ("client_ca", "holds no certificate; wanted a PEM file for --client-ca"),
    ],
)
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_pem_file_is_named(files: TlsFiles, name: str, problem: str, content: bytes) -> None:
    getattr(files, name).write_bytes(content)
    with pytest.raises(UserError, match=problem) as caught:
        tls.check(files)
    assert "\n" not in str(caught.value)


def test_the_key_of_another_certificate_is_refused(files: TlsFiles) -> None:
    files.key.write_bytes(OTHER.private_key_pem.bytes())
    with pytest.raises(UserError, match=r"key\.pem: is not the key of .*cert\.pem"):
        tls.check(files)


def test_a_key_with_a_password_is_refused_without_asking_for_it(files: TlsFiles) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(UserError, match="wanted a PEM file without a password"):
        tls.check(files)


@pytest.fixture
def renewable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Renewable"]:
    """A server with mutual TLS that looks at its files at every handshake."""
    monkeypatch.setattr(watched_files, "CHECK_PERIOD_S", 0.0)
    events: list[str] = []
    monkeypatch.setattr(logs, "event", lambda name, *_, **__: events.append(name))
    found = Renewable(tmp_path, events)
    yield found
    found.server.stop(None).wait()


class Renewable:
    """A real server, the files that it was started with, and what it events."""

    def __init__(self, folder: Path, events: list[str]) -> None:
        self.folder = folder
        self.events = events
        self.first = issue(folder / "first")
        self.second = issue(folder / "second")
        self.files = TlsFiles(*(folder / name for name in ("cert.pem", "key.pem", "ca.pem")))
        self.install(self.first)
        self.server = grpc.server(futures.ThreadPoolExecutor(1))
        answer = grpc.unary_unary_rpc_method_handler(lambda _, __: b"")
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": answer}),))
        port = self.server.add_secure_port("127.0.0.1:0", tls.server_credentials(self.files))
        self.server.start()
        self.address = f"127.0.0.1:{port}"

    def install(self, issued: Certificates, *names: str) -> None:
        """Put the files in the place of those of before; all, or those named."""
        for name, source in (("cert", issued.server), ("key", issued.server_key), ("client_ca", issued.ca)):
            if not names or name in names:
                fresh = self.folder / "fresh.pem"
                fresh.write_bytes(source.read_bytes())
                fresh.replace(getattr(self.files, name))

    def channel(self, issued: Certificates) -> grpc.Channel:
        alone = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        return grpc.secure_channel(self.address, issued.channel_credentials(), alone)

    def lets_in(self, issued: Certificates) -> bool:
        """Whether a new connection with these certificates gets an answer."""
        with self.channel(issued) as channel:
            try:
                channel.unary_unary("/a.B/C")(b"", timeout=5)
            except grpc.RpcError:
                return False
            return True


def test_renewed_files_count_for_new_connections(renewable: Renewable) -> None:
    with renewable.channel(renewable.first) as kept:
        kept.unary_unary("/a.B/C")(b"", timeout=5)
        renewable.install(renewable.second)
        assert renewable.lets_in(renewable.second)
        assert not renewable.lets_in(renewable.first)
        kept.unary_unary("/a.B/C")(b"", timeout=5)
    assert renewable.events == ["certificate_changed"]


def test_files_are_not_used_until_they_fit_each_other(renewable: Renewable) -> None:
    renewable.install(renewable.second, "cert")
    assert renewable.lets_in(renewable.first), "the new certificate waits for its key"
    assert renewable.lets_in(renewable.first), "and is events of once"
    renewable.install(renewable.second, "key", "client_ca")
    assert renewable.lets_in(renewable.second)
    assert renewable.events == ["certificate_refused", "certificate_changed"]


@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
@pytest.mark.parametrize("how", ["gone", "garbage"])
def test_a_broken_file_is_refused_and_the_previous_files_stay_in_use(renewable: Renewable, name: str, how: str) -> None:
    path = getattr(renewable.files, name)
    path.unlink() if how == "gone" else path.write_bytes(b"garbage")
    assert renewable.lets_in(renewable.first)
    renewable.install(renewable.first)
    assert renewable.lets_in(renewable.first)
    assert renewable.events == ["certificate_refused", "certificate_changed"]
