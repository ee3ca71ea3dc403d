"""Who may call what, and where a service may listen: decisions only, without a file, a clock or a connection.

A tokens file has one line a token: a name for people, the SHA-256 of the token in hex, and the models it may call, `*` for all.
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
"""What load balancers and supervisors ask without a token; it tells no more than whether the service runs."""

_SCHEME = "bearer "
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

Metadata = Iterable[tuple[str, str | bytes]]


class Unauthenticated(Exception):  # noqa: N818 - the server works; the call is turned down
    """A call comes without a token, or with one that is not known."""


class Forbidden(Exception):  # noqa: N818 - as above
    """A call's token is known and has no right to the model."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What one token allows: `digest` is its SHA-256, `models` the names it may call."""

    name: str
    digest: bytes
    models: frozenset[str]

    def permit(self, model: str) -> None:
        """Hold a call to a model against the token's rights.

        Raises:
            Forbidden: The token does not cover it, whether or not there is such a model.
        """
        if EVERY_MODEL not in self.models and model not in self.models:
            raise Forbidden("the token has no right to this model")


ANYONE = Grant("anyone", b"", frozenset({EVERY_MODEL}))
"""What a call is granted that needs no token."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The grants of a tokens file; without one, nobody is let in."""

    grants: tuple[Grant, ...]

    @classmethod
    def parse(cls, text: str, origin: str) -> Self:
        """Read a tokens file's text; `#` starts a comment, and `origin` names the file in errors.

        Raises:
            UserError: A line is malformed, or a name or a token is there twice.
        """
        lines = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
        grants = tuple(_grant(fields, f"{origin} line {number}") for number, fields in lines if fields)
        for kind, values in (
            ("name", [grant.name for grant in grants]),
            ("token", [grant.digest.hex() for grant in grants]),
        ):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise UserError(f"{origin}: the {kind} {twice} is there twice; wanted one line for each: delete one")
        return cls(grants)

    def identify(self, token: str) -> Grant | None:
        """The grant of a token; the time that takes tells nothing of how close a guess was."""
        digest = digest_of(token)
        found = None
        for grant in self.grants:
            if hmac.compare_digest(grant.digest, digest):
                found = grant
        return found


class Gate:
    """What every call passes; `tokens` gives those in force now, and None means that none is asked for."""

    def __init__(self, tokens: Callable[[], Tokens] | None = None) -> None:
        self._tokens = tokens

    def admit(self, method: str, metadata: Metadata) -> Grant:
        """What a call to `method`, such as `/package.Service/Method`, is granted by the metadata it comes with.

        Raises:
            Unauthenticated: The method needs a token, and there is none, or none that is known.
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
    """Let a service be reached from outside only encrypted, or by an explicit wish.

    Raises:
        UserError: It would be reached from outside in the clear.
    """
    if not (encrypted or insecure or is_loopback(host)):
        raise UserError(
            f"--host {host} can be reached from other machines, and without TLS whoever is on the way reads and changes all that is"
            " sent; give --tls-cert and --tls-key, or --insecure where something in front encrypts"
        )


def _grant(fields: list[str], where: str) -> Grant:
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
    return Grant(name, bytes.fromhex(digest), frozenset(models))
