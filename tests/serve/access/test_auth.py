import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.errors import UserError
from serve.access.auth import (
    ANYONE,
    OPEN_METHODS,
    Authenticator,
    AuthTokens,
    PermissionDenied,
    Unauthenticated,
    check_exposure,
    digest_of,
)
from serve.addresses import is_loopback

INFER = "/inference.GRPCInferenceService/ModelInfer"


def hexed(token: str) -> str:
    return digest_of(token).hex()


TOKENS = AuthTokens.parse(
    f"""
    # who       what
    ci          {hexed("for-ci")}  digits sentiment
    ops         {hexed("for-ops").upper()}  *   # every model
    """,
    "tokens",
)
AUTHENTICATOR = Authenticator(lambda: TOKENS)


def bearer(value: str) -> tuple[tuple[str, str], ...]:
    return (("user-agent", "test"), ("authorization", value))


def test_the_digest_is_the_one_that_sha256sum_prints() -> None:
    assert hexed("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4, example


def test_a_file_says_who_may_call_what() -> None:
    assert [(token.name, token.models) for token in TOKENS.tokens] == [
        ("ci", frozenset({"digits", "sentiment"})),
        ("ops", frozenset({"*"})),
    ]


@pytest.mark.parametrize("value", ["Bearer for-ci", "bearer for-ci", "BEARER   for-ci "])
def test_a_known_token_gets_its_rights(value: str) -> None:
    token = AUTHENTICATOR.authenticate(INFER, bearer(value))
    assert token.name == "ci"
    token.check_model("digits")
    with pytest.raises(PermissionDenied):
        token.check_model("other")
    with pytest.raises(PermissionDenied):
        token.check_model("")


def test_a_star_is_every_model() -> None:
    AUTHENTICATOR.authenticate(INFER, bearer("Bearer for-ops")).check_model("anything")


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("user-agent", "test"),),
        bearer(""),
        bearer("Bearer"),
        bearer("Bearer "),
        bearer("for-ci"),
        bearer("Basic for-ci"),
        bearer("Bearer for-c"),
        bearer("Bearer for-ci2"),
        bearer(f"Bearer {hexed('for-ci')}"),
        bearer("Bearer \udcff"),
        (("authorization", "Bearer for-ci"), ("authorization", "Bearer for-ops")),
    ],
    ids=str,
)
def test_no_token_or_an_unknown_one_is_unauthenticated(metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        AUTHENTICATOR.authenticate(INFER, metadata)
    assert "authorization: Bearer TOKEN" in str(caught.value)
    assert "for-ci" not in str(caught.value)


@given(st.text())
def test_only_the_token_itself_is_accepted(guess: str) -> None:
    found = TOKENS.identify(guess)
    assert (found is None) == (guess not in {"for-ci", "for-ops"})


def test_health_and_live_need_no_token_and_nothing_else_is_open() -> None:
    for method in OPEN_METHODS:
        assert AUTHENTICATOR.authenticate(method, ()) is ANYONE
    for method in (
        INFER,
        "/inference.GRPCInferenceService/ServerReady",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ):
        with pytest.raises(Unauthenticated):
            AUTHENTICATOR.authenticate(method, ())


def test_without_a_tokens_file_anyone_may_call() -> None:
    Authenticator().authenticate(INFER, ()).check_model("anything")


def test_an_empty_file_refuses_every_call() -> None:
    with pytest.raises(Unauthenticated):
        Authenticator(lambda: AuthTokens.parse("# nobody\n\n", "tokens")).authenticate(INFER, bearer("Bearer for-ci"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ci", "line 1: has 1 fields"),
        (f"ci {'0' * 64}", "line 1: has 2 fields"),
        ("\nci secret digits", "line 2: the second field is no SHA-256"),
        (f"ci {'0' * 63} digits", "no SHA-256"),
        (f"ci {'0' * 64} a\nci {'1' * 64} b", "the name ci is there twice"),
        (f"ci {'0' * 64} a\nops {'0' * 64} b", "is there twice"),
    ],
)
def test_a_malformed_file_is_refused_in_one_sentence(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"^tokens.*{problem}") as caught:
        AuthTokens.parse(text, "tokens")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:0.0.0.0", False),
        ("192.0.2.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_addresses_that_only_this_machine_can_reach(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    check_exposure(host, encrypted=True, insecure=False)
    check_exposure(host, encrypted=False, insecure=True)
    if loopback:
        check_exposure(host, encrypted=False, insecure=False)
    else:
        with pytest.raises(UserError, match=r"without TLS .* give --tls-cert and --tls-key, or --insecure"):
            check_exposure(host, encrypted=False, insecure=False)
