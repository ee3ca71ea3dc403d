import os
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from optimize.errors import UserError
from serve import tls
from serve.tls import TlsFiles

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
    assert tls.chosen(None, None, None) is None


def test_files_that_fit_are_taken_with_absolute_paths(files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.cert.parent)
    assert tls.chosen(Path("cert.pem"), Path("key.pem"), Path("ca.pem")) == files
    assert tls.chosen(files.cert, files.key, None) == TlsFiles(files.cert, files.key)
    assert tls.server_credentials(files) is not None


@pytest.mark.parametrize(
    ("given", "missing"), [("cert", "--tls-key"), ("key", "--tls-cert"), ("client_ca", "--tls-cert and --tls-key")]
)
def test_half_of_tls_is_refused(files: TlsFiles, given: str, missing: str) -> None:
    options = {name: getattr(files, name) if name == given else None for name in ("cert", "key", "client_ca")}
    with pytest.raises(UserError, match=f"TLS was asked for without {missing};"):
        tls.chosen(**options)


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
