"""The tokens file: it is read, read again when it changes, and written by `optimize token`."""

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from optimize.errors import Exit, UserError
from serve import logs
from serve.access.auth import EVERY_MODEL, AuthToken, AuthTokens, digest_of
from serve.access.watched_files import WatchedFiles

_TOKEN_BYTES = 32
_OWNER_ONLY = 0o600


def read(path: Path) -> AuthTokens:
    """The tokens of a file.

    Raises:
        UserError: It cannot be read, or a line of it is malformed.
    """
    try:
        return AuthTokens.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; make a tokens file with `optimize token`, or name another file"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text; wanted a tokens file: make one with `optimize token`") from None


class AuthTokensFile:
    """The tokens of a file that may change; if a change breaks it, the previous tokens stay valid.

    An empty file is not broken: every call is refused then.

    Raises:
        UserError: The file cannot be used at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._file = WatchedFiles([path], clock)  # before it is read, so that no change is missed
        self._tokens = read(path)

    def current(self) -> AuthTokens:
        """The tokens that are valid now."""
        if self._file.changed():
            self._reload()
        return self._tokens

    def _reload(self) -> None:
        try:
            self._tokens = read(self._path)
        except UserError as error:
            logs.event("tokens_refused", logging.ERROR, reason=str(error), instead="those of before stay in force")
        else:
            logs.event("tokens_changed", tokens=len(self._tokens.tokens))


def add(path: Path, name: str, models: list[str]) -> str:
    """Make a token, append its line to the file, and return it; it is written nowhere else.

    Raises:
        UserError: The name is taken or is not allowed in the file, or the file cannot be read or written.
    """
    for word in (name, *models):
        if not word or "#" in word or word.split() != [word]:
            raise UserError(f"{word!r} cannot stand in a tokens file; wanted a name without spaces and #")
    existing = read(path) if path.exists() else AuthTokens(())
    if name in [one.name for one in existing.tokens]:
        raise UserError(f"{path}: has a token named {name}; choose another name, or delete its line first")
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    added = AuthToken(name, digest_of(token), frozenset(models or [EVERY_MODEL]))
    _append(path, f"{added.name} {added.digest.hex()} {' '.join(sorted(added.models))}\n")
    return token


def _append(path: Path, line: str) -> None:
    """Add a line with a single write, even if the last line of the file has no end."""
    try:
        with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _OWNER_ONLY), "r+b", buffering=0) as file:  # noqa: PTH123 - the mode is set as it is created
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            complete = size == 0 or file.read(1) == b"\n"
            file.write(("" if complete else "\n").encode() + line.encode())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}; name another file with --file") from None


def token(
    name: Annotated[str, typer.Argument(help="Whose token it is; shown in the file, and free to choose.")],
    file: Annotated[
        Path,
        typer.Option(help="Tokens file, as in `optimize serve --tokens`; made where it is not there.", dir_okay=False),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Model that it may call; may be repeated. Default: all.")
    ] = None,
) -> Exit:
    """Make a bearer token: its hash goes to the tokens file, the token itself to stdout and nowhere else."""
    typer.echo(add(file, name, model or []))
    typer.echo(f"added {name} to {file}; the token above is not kept anywhere", err=True)
    return Exit.OK
