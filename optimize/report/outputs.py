"""Reports as files: read what exports left in the registry, and write it for people and for machines."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from msgspec import Struct

from optimize import report
from optimize.budgets import chosen, load
from optimize.errors import ArtifactError, Exit, UserError
from optimize.execution import atomic
from optimize.manifest import Manifest, Result, Winner
from optimize.registry import Registry, location
from optimize.report import Served

Format = Literal["html", "md", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Findings(Struct, frozen=True):
    """What to report: the results, the models that were judged by other budgets, and those that were never exported.

    `served` has what the registry knows of the versions that the results published, by model.
    """

    results: tuple[Result, ...]
    stale: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    served: dict[str, Served] = {}


def collect(budgets_path: Path, models: Sequence[str] = ()) -> Findings:
    """The last result of every model of a budgets file, or of those that are named; what is published where there is none.

    Raises:
        UserError: The budgets file cannot be used, a named model is not in it, or nothing was exported yet.
        ArtifactError: A result is damaged, or the manifest that stands for one.
    """
    budgets = load(budgets_path)
    names = chosen(budgets, models, budgets_path)
    registry = Registry(location(budgets_path, budgets))
    results = tuple(found for name in names if (found := _result(registry, name)))
    exported = {result.name for result in results}
    absent = tuple(name for name in names if name not in exported)
    if absent and (models or not results):
        raise UserError(f"{', '.join(absent)}: never exported to {registry.place}; run `optimize export` first")
    stale = frozenset(result.name for result in results if result.budgets != budgets.models[result.name])
    return Findings(results, stale, absent, _served(registry, results))


def of_run(registry: Registry, results: Sequence[Result]) -> Findings:
    """The results of a run that has just ended."""
    return Findings(tuple(results), served=_served(registry, results))


def document(findings: Findings) -> str:
    """The JSON document of `--json` and report.json."""
    return report.as_json(findings.results, served=findings.served)


def write(findings: Findings, folder: Path, formats: Sequence[Format] = FORMATS) -> list[Path]:
    """Write report.html, report.md and report.json, or some of them; a file appears whole or not at all.

    Raises:
        UserError: The folder cannot be written.
    """
    written = []
    for kind in formats:
        target = folder / f"report.{kind}"
        text = _text(findings, kind)
        try:
            with atomic.reported(target):
                atomic.write(target, text.encode())
        except ArtifactError as error:
            raise UserError(f"{error}, or name another folder") from None
        written.append(target)
    return written


def _text(findings: Findings, kind: Format) -> str:
    if kind == "json":
        return document(findings) + "\n"
    results, stale, absent, served = findings.results, findings.stale, findings.absent, findings.served
    if kind == "md":
        return report.as_markdown(results, stale=stale, absent=absent, served=served)
    from optimize.report.page import as_html  # noqa: PLC0415 - the plotting library, which the other formats do without

    return as_html(results, stale=stale, absent=absent, served=served)


def _served(registry: Registry, results: Sequence[Result]) -> dict[str, Served]:
    """What is known of the version of each winner; nothing of one whose manifest is damaged or missing."""
    found = {}
    for result in results:
        version = result.winner.version if result.winner else None
        if version is not None:
            with contextlib.suppress(ArtifactError):
                manifest = registry.load(result.name, version)
                judged = tuple(registry.judgements(result.name, version))
                found[result.name] = Served(manifest.online, manifest.bulk, judged)
    return found


def _result(registry: Registry, name: str) -> Result | None:
    """The last export's result, else one made from the manifest of the current version."""
    found = registry.result(name)
    if found is not None or registry.current(name) is None:
        return found
    manifest = registry.load(name)
    return _of(manifest, registry.manifest_path(name, manifest.version))


def _of(manifest: Manifest, path: str) -> Result:
    precision, _, runtime = manifest.candidate.partition("@")
    return Result(
        name=manifest.model,
        exit=int(Exit.OK),
        winner=Winner(manifest.candidate, precision, runtime, manifest.version, path),
        candidates=manifest.candidates,
        budgets=manifest.budgets,
        release=True,
        reason=f"{manifest.candidate} wins",
        machine=manifest.machine,
        tools=manifest.tools,
        created=manifest.created,
    )
