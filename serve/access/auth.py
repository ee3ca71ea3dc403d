"""Who may call what, and where a service may listen: pure decisions, without a file, a clock or a connection.

A tokens file has one line per token: a name for people, the SHA-256 of the token in hex, and the models it may call, `*` for all.
Tokens are random and long, so that a fast hash without salt gives nothing away.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from optimize.errors import UserError
from serve.addresses import is_loopback
from serve.metadata_keys import AUTHORIZATION

EVERY_MODEL = "*"

OPEN_METHODS = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
    }
)
"""What load balancers and supervisors may call without a token; the answers only show whether the service runs."""

_SCHEME = "bearer "
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

Metadata = Iterable[tuple[str, str | bytes]]


class Unauthenticated(Exception):  # noqa: N818 - the server works, but refuses the call
    """A call has no token, or an unknown one."""


class PermissionDenied(Exception):  # noqa: N818 - as above
    """The token of a call is known but has no right to the model."""


@dataclass(frozen=True, slots=True)
class AuthToken:
    """One token and its rights: `digest` is its SHA-256, `models` has the names it may call."""

    name: str
    digest: bytes
    models: frozenset[str]

    def check_model(self, model: str) -> None:
        """Check that the token has a right to a model.

        Raises:
            PermissionDenied: It has none, whether or not there is such a model.
        """
        if EVERY_MODEL not in self.models and model not in self.models:
            raise PermissionDenied("the token has no right to this model")


ANYONE = AuthToken("anyone", b"", frozenset({EVERY_MODEL}))
"""The rights of a call that needs no token."""


@dataclass(frozen=True, slots=True)
class AuthTokens:
    """The tokens of a file; if it has none, every call is refused."""

    tokens: tuple[AuthToken, ...]

    @classmethod
    def parse(cls, text: str, origin: str) -> Self:
        """Parse the text of a tokens file; `#` starts a comment, and `origin` names the file in errors.

        Raises:
            UserError: A line is malformed, or a name or a token appears twice.
        """
        lines = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
        tokens = tuple(_parse_line(fields, f"{origin} line {number}") for number, fields in lines if fields)
        for kind, values in (
            ("name", [token.name for token in tokens]),
            ("token", [token.digest.hex() for token in tokens]),
        ):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise UserError(f"{origin}: the {kind} {twice} is there twice; wanted one line for each: delete one")
        return cls(tokens)

    def identify(self, token: str) -> AuthToken | None:
        """The known token that equals `token`; how long this takes does not show how close a guess was."""
        digest = digest_of(token)
        found = None
        for known in self.tokens:
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found


class Authenticator:
    """Checks the token of every call; `tokens` returns those that are valid now. Without it, no call needs a token."""

    def __init__(self, tokens: Callable[[], AuthTokens] | None = None) -> None:
        self._tokens = tokens

    def authenticate(self, method: str, metadata: Metadata) -> AuthToken:
        """The token in the metadata of a call to `method`, such as `/package.Service/Method`.

        Raises:
            Unauthenticated: The method needs a token, and there is none, or an unknown one.
        """
        if self._tokens is None or method in OPEN_METHODS:
            return ANYONE
        sent = [value for key, value in metadata if key == AUTHORIZATION]
        if not sent:
            raise Unauthenticated("a token is needed; send it as metadata `authorization: Bearer TOKEN`")
        value = str(sent[0])
        known = value[: len(_SCHEME)].lower() == _SCHEME and self._tokens().identify(value[len(_SCHEME) :].strip())
        if len(sent) > 1 or not known:
            raise Unauthenticated("the token is not known here; send one as metadata `authorization: Bearer TOKEN`")
        return known


def digest_of(token: str) -> bytes:
    """The SHA-256 of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def check_exposure(host: str, *, encrypted: bool, insecure: bool) -> None:
    """Check that other machines can reach the service only with TLS, unless the user asked for `--insecure`.

    Raises:
        UserError: They could reach it in the clear.
    """
    if not (encrypted or insecure or is_loopback(host)):
        raise UserError(
            f"--host {host} can be reached from other machines, and without TLS anyone on the way can read and change what is"
            " sent; give --tls-cert and --tls-key, or --insecure if something in front encrypts"
        )


def _parse_line(fields: list[str], where: str) -> AuthToken:
    if len(fields) < 3:
        raise UserError(
            f"{where}: has {len(fields)} fields; wanted a name, the token's SHA-256, and the models or {EVERY_MODEL}:"
            " write lines with `optimize token`"
        )
    name, digest, *models = fields
    if not _SHA256.fullmatch(digest):
        raise UserError(
            f"{where}: the second field is no SHA-256; wanted 64 hex digits, never the token itself: write lines with `optimize token`"
        )
    return AuthToken(name, bytes.fromhex(digest), frozenset(models))
