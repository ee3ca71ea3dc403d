"""What names a result in the cache: the function that found it, and the contents of its arguments.

A function's arguments are all that it sees, so a key that is made of them covers all that decides the answer. A path says nothing
about what lies there; a file or a folder is therefore passed as a :class:`DigestedPath`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
from msgspec import Struct


@runtime_checkable
class Keyed(Protocol):
    """An argument whose key is not made of its fields."""

    @property
    def cache_key(self) -> object:
        """What the key is made of."""


class DigestedPath(Struct, frozen=True):
    """A file or a folder, and the digest of what a function reads there; the function itself receives the path."""

    path: Path
    digest: str

    @property
    def cache_key(self) -> str:
        """The digest: the same contents elsewhere are the same argument."""
        return self.digest


def key_of(*parts: object) -> str:
    """SHA-256 over the canonical JSON of the parts' contents.

    Raises:
        TypeError: A part has no contents to make a key of, such as a bare path.
    """
    return hashlib.sha256(msgspec.json.encode(_contents(parts), order="deterministic")).hexdigest()


def key_of_call(
    function: Callable[..., object], args: Iterable[object], kwargs: Mapping[str, object], *conditions: object
) -> str:
    """The key of one call of a function under some conditions, such as the machine.

    Raises:
        TypeError: An argument has no contents to make a key of, such as a bare path.
    """
    return key_of(f"{function.__module__}.{function.__qualname__}", tuple(args), dict(kwargs), *conditions)


def received(args: Iterable[object]) -> tuple[object, ...]:
    """The arguments as the function receives them."""
    return tuple(arg.path if isinstance(arg, DigestedPath) else arg for arg in args)


def _contents(value: object) -> object:
    if isinstance(value, Keyed):
        return _contents(value.cache_key)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Struct):
        fields = {name: _contents(getattr(value, name)) for name in value.__struct_fields__}
        return [type(value).__name__, fields]
    if isinstance(value, Mapping):
        return {name: _contents(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_contents(entry) for entry in value]
    raise TypeError(f"{value!r} cannot be part of a cache key; pass a file or a folder as a DigestedPath")
