from pathlib import Path

import pytest

from optimize.errors import UserError
from serve.client.connection import Connection

ELSEWHERE = "models.example.org:9000"


def test_plain_is_the_default_and_any_pem_file_means_tls(tmp_path: Path) -> None:
    assert not Connection("127.0.0.1:9000").encrypted
    assert Connection(ELSEWHERE, tls=True).encrypted
    assert Connection(ELSEWHERE, ca=tmp_path / "ca.pem").encrypted
    assert Connection(ELSEWHERE, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem").encrypted


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000", "unix:/run/models.sock", "unix-abstract:models"]
)
def test_a_token_may_stay_on_this_machine_in_the_clear(address: str) -> None:
    assert Connection(address, token="t0ken").metadata == (("authorization", "Bearer t0ken"),)


@pytest.mark.parametrize("address", [ELSEWHERE, "192.0.2.1:9000", "[2001:db8::1]:9000", "localhost.example.org:1"])
def test_a_token_leaves_this_machine_only_encrypted_or_with_insecure(address: str) -> None:
    with pytest.raises(UserError, match="would travel in the clear; use TLS, or insecure") as caught:
        Connection(address, token="t0ken")
    assert "t0ken" not in str(caught.value)
    assert Connection(address, token="t0ken", tls=True).metadata
    assert Connection(address, token="t0ken", insecure=True).metadata


@pytest.mark.parametrize(
    "address", ["localhost:1,localhost:2", "127.0.0.1:1,localhost:2", "127.0.0.1:1,[::1]:2", "a:1,b:2"]
)
def test_several_addresses_are_ip_addresses_of_one_version(address: str) -> None:
    with pytest.raises(UserError, match="wanted IP addresses of one version"):
        Connection(address)


def test_a_token_for_several_addresses_needs_all_of_them_here() -> None:
    assert Connection("127.0.0.1:1,127.0.0.1:2", token="t0ken").metadata
    with pytest.raises(UserError, match="in the clear"):
        Connection("127.0.0.1:1,192.0.2.1:2", token="t0ken")


def test_a_printed_connection_does_not_show_its_token() -> None:
    connection = Connection("127.0.0.1:1", token="t0ken")
    for shown in (repr(connection), str(connection), f"{[connection]}"):
        assert "t0ken" not in shown
        assert "127.0.0.1:1" in shown


def test_without_a_token_calls_carry_nothing() -> None:
    assert Connection(ELSEWHERE).metadata == ()


def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give both, or neither"):
        Connection(ELSEWHERE, cert=tmp_path / "cert.pem")


@pytest.mark.parametrize("token", ["se cret", "secret\n", " secret", "s\u00e9cret"])
def test_what_no_token_looks_like_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(UserError, match="no token has") as caught:
        Connection("127.0.0.1:1", token=token)
    assert token not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ca\.pem: cannot be read: No such file or directory"):
        Connection(ELSEWHERE, ca=tmp_path / "ca.pem").channel(())
