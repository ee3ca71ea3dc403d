"""Which versions of which models are served: NAME follows what is current, NAME@VERSION stays."""

from collections.abc import Sequence

from msgspec import Struct

from optimize.errors import UserError
from optimize.registry import Registry

_MAX_DIGITS = 10


class Choice(Struct, frozen=True):
    """The versions of one model that a service offers.

    `version` answers the calls that name none; where the model `follows` the registry, a version that becomes current takes its place.
    The `pinned` versions stay, whatever is current.
    """

    name: str
    version: int
    follows: bool = True
    pinned: tuple[int, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version to start with, each once."""
        return tuple(dict.fromkeys((self.version, *self.pinned)))


def chosen(registry: Registry, asked: Sequence[str]) -> list[Choice]:
    """What was asked for as NAME or NAME@VERSION, or every model's current version.

    Of a model that is asked for by versions alone, the first one answers the calls that name none.

    Raises:
        UserError: Nothing is published, or not what was asked for.
    """
    published = registry.models()
    if not published:
        raise UserError(
            f"{registry.place}: no model is published there; publish one with `optimize export`, or name yours with --registry"
        )
    wanted: dict[str, list[int | None]] = {}
    for text in asked or published:
        name, version = _parsed(registry, published, text)
        wanted.setdefault(name, []).append(version)
    return [_choice(registry, name, versions) for name, versions in wanted.items()]


def _parsed(registry: Registry, published: list[str], text: str) -> tuple[str, int | None]:
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


def _choice(registry: Registry, name: str, versions: Sequence[int | None]) -> Choice:
    pinned = tuple(dict.fromkeys(version for version in versions if version is not None))
    current = registry.current(name) if None in versions else None
    return Choice(name, pinned[0] if current is None else current, follows=current is not None, pinned=pinned)
