"""Published versions: list them, choose the one that is served, fetch one, and clear up."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimize.commands.options import DEFAULT_REGISTRY, ModelArgument, RegistryOption
from optimize.errors import ArtifactError, Exit, UserError

if TYPE_CHECKING:
    from optimize.registry import Registry


def versions(
    model: Annotated[str | None, typer.Argument(help="A published model; all of them by default.")] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> Exit:
    """List the published versions of a model, or of every model."""
    from optimize.registry import Registry  # noqa: PLC0415

    store = Registry(registry)
    if model is not None:
        return _listed(store, model, "")
    names = store.models()
    if not names:
        raise ArtifactError(f"nothing is published in {store.place}; publish a model with `optimize export`")
    width = max(map(len, names))
    codes = [_listed(store, name, f"{name:<{width}}  ") for name in names]
    return max(codes)


def _listed(store: "Registry", model: str, prefix: str) -> Exit:
    current, code = store.current(model), Exit.OK
    for number in store.versions(model) or [store.load(model).version]:
        try:
            manifest = store.load(model, number)
        except ArtifactError as error:  # the others are listed all the same: one of them can be promoted
            typer.echo(f"error: {error}", err=True)
            code = error.exit_code
            continue
        served = "current" if number == current else ""
        line = f"{prefix}{number:>4}  {manifest.created}  {manifest.candidate:<30} {manifest.digest[:12]}  {served}"
        typer.echo(line.rstrip())
    return code


def promote(
    model: ModelArgument,
    version: Annotated[int, typer.Argument(help="A published version.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> Exit:
    """Make a published version the one that is served."""
    from optimize.registry import Registry  # noqa: PLC0415

    Registry(registry).promote(model, version)
    typer.echo(f"{model}: version {version} is current")
    return Exit.OK


def rollback(model: ModelArgument, registry: RegistryOption = DEFAULT_REGISTRY) -> Exit:
    """Serve the version before the current one again."""
    from optimize.registry import Registry  # noqa: PLC0415

    typer.echo(f"{model}: version {Registry(registry).rollback(model)} is current")
    return Exit.OK


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL[@N]", help="A published model, and a version of it.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder; it becomes a registry of that version.")],
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> Exit:
    """Fetch a version (the current one by default) with all its files into a registry that holds nothing else."""
    from optimize.registry import Registry  # noqa: PLC0415
    from optimize.registry.pull import pull  # noqa: PLC0415

    name, separator, number = model.partition("@")
    if separator and not (number.isascii() and number.isdigit()):
        raise UserError(f"{model}: names no version; wanted MODEL or MODEL@N, such as {name}@2")
    version = pull(Registry(registry), name, int(number) if separator else None, folder)
    typer.echo(f"{name}: version {version} is in {folder}; serve it with: optimize serve --registry {folder}")
    return Exit.OK


def gc(
    registry: RegistryOption = DEFAULT_REGISTRY,
    older_than: Annotated[float, typer.Option(help="Hours that a file must be old.", min=0)] = 24.0,
) -> Exit:
    """Delete files that no published version names, and cached work that no export used for 30 days."""
    from optimize.execution.cache import UNUSED_DAYS, sweep  # noqa: PLC0415
    from optimize.manifest import counted  # noqa: PLC0415
    from optimize.registry import Registry  # noqa: PLC0415

    store = Registry(registry)
    deleted = store.collect(older_than_s=older_than * 3600)
    typer.echo(f"deleted {counted(len(deleted), 'file')} that no version names")
    swept, size_bytes = sweep(store.scratch, unused_s=UNUSED_DAYS * 86_400)
    if swept:
        entries = counted(swept, "cached entry", "cached entries")
        typer.echo(f"deleted {entries} ({size_bytes / 1e6:.1f} MB) that no export used for {UNUSED_DAYS} days")
    return Exit.OK
