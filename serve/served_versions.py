"""Which versions of which models are served: NAME follows the current version, NAME@VERSION stays with one."""

from collections.abc import Sequence

from msgspec import Struct

from optimize.errors import UserError
from optimize.registry import Registry

_MAX_DIGITS = 10


class ServedModel(Struct, frozen=True):
    """The versions of one model that a service offers.

    `version` answers calls that name no version. If the model `follows` the registry, a version that becomes current replaces it. The
    `pinned` versions stay, whatever is current.
    """

    name: str
    version: int
    follows: bool = True
    pinned: tuple[int, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version to start with, each once."""
        return tuple(dict.fromkeys((self.version, *self.pinned)))


def served_models(registry: Registry, requested: Sequence[str]) -> list[ServedModel]:
    """The models that were requested as NAME or NAME@VERSION, or every model at its current version.

    If a model is requested by versions only, the first one answers calls that name no version.

    Raises:
        UserError: Nothing is published, or not what was requested.
    """
    published = registry.models()
    if not published:
        raise UserError(
            f"{registry.place}: no model is published there; publish one with `optimize export`, or name yours with --registry"
        )
    wanted: dict[str, list[int | None]] = {}
    for text in requested or published:
        name, version = _parse(registry, published, text)
        wanted.setdefault(name, []).append(version)
    return [_served(registry, name, versions) for name, versions in wanted.items()]


def _parse(registry: Registry, published: list[str], text: str) -> tuple[str, int | None]:
    name, at, number = (text, "", "") if text in published else text.rpartition("@")
    if not at:
        name = text
    if name not in published:
        raise UserError(f"model {name!r} is not published in {registry.place}; wanted one of {', '.join(published)}")
    if not at:
        return name, None
    if not (number.isascii() and number.isdigit() and len(number) < _MAX_DIGITS):
        raise UserError(
            f"--model {text}: {number!r} is no version number; wanted {name}, or a version such as {name}@1"
        )
    versions = registry.versions(name)
    if int(number) not in versions:
        raise UserError(
            f"--model {text}: no such version is published in {registry.place}; wanted one of {', '.join(map(str, versions))}"
        )
    return name, int(number)


def _served(registry: Registry, name: str, versions: Sequence[int | None]) -> ServedModel:
    pinned = tuple(dict.fromkeys(version for version in versions if version is not None))
    current = registry.current(name) if None in versions else None
    return ServedModel(name, pinned[0] if current is None else current, follows=current is not None, pinned=pinned)
