"""The tokens file: read, read again when it changes, and written by `optimize token`."""

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
from serve.access.auth import EVERY_MODEL, Grant, Tokens, digest_of
from serve.access.watched_files import WatchedFiles

_TOKEN_BYTES = 32
_OWNER_ONLY = 0o600


def read(path: Path) -> Tokens:
    """The tokens of a file.

    Raises:
        UserError: It cannot be read, or a line of it is malformed.
    """
    try:
        return Tokens.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror}; make a tokens file with `optimize token`, or name yours"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text; wanted a tokens file: make one with `optimize token`") from None


class TokensFile:
    """The tokens of a file as it is now, looked at while calls come in; where a change breaks it, those of before go on.

    An emptied file is not broken: it lets nobody in.

    Raises:
        UserError: The file cannot be used at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._file = WatchedFiles([path], clock)  # before it is read, so that no change is missed
        self._tokens = read(path)

    def current(self) -> Tokens:
        """The tokens in force."""
        if self._file.changed():
            self._read_again()
        return self._tokens

    def _read_again(self) -> None:
        try:
            self._tokens = read(self._path)
        except UserError as error:
            logs.tell("tokens_refused", logging.ERROR, reason=str(error), instead="those of before stay in force")
        else:
            logs.tell("tokens_changed", tokens=len(self._tokens.grants))


def add(path: Path, name: str, models: list[str]) -> str:
    """Make a token, append its line to the file, and return it; it is written nowhere else.

    Raises:
        UserError: The name is taken or cannot stand in the file, or the file cannot be read or written.
    """
    for word in (name, *models):
        if not word or "#" in word or word.split() != [word]:
            raise UserError(f"{word!r} cannot stand in a tokens file; wanted a name without spaces and #")
    held = read(path) if path.exists() else Tokens(())
    if name in [grant.name for grant in held.grants]:
        raise UserError(f"{path}: has a token named {name}; choose another name, or delete its line first")
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    grant = Grant(name, digest_of(token), frozenset(models or [EVERY_MODEL]))
    _append(path, f"{grant.name} {grant.digest.hex()} {' '.join(sorted(grant.models))}\n")
    return token


def _append(path: Path, line: str) -> None:
    """Add a line in one write, on a line of its own."""
    try:
        with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _OWNER_ONLY), "r+b", buffering=0) as file:  # noqa: PTH123 - the mode is set as it is created
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            whole = size == 0 or file.read(1) == b"\n"
            file.write(("" if whole else "\n").encode() + line.encode())
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
