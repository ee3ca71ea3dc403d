"""Replace a name of another library, and notice when that library has changed.

Ray and gRPC promise nothing about the names that `serve.rayserve.ray_patches` and `serve.transport.grpc_patches` replace. When one is
gone, or is no longer used where it was, a patch for exposure or correctness refuses the start; a patch for speed is skipped with one
line in the log.
"""

import importlib
import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Iterable
from enum import StrEnum
from types import FunctionType
from typing import Any, NamedTuple

from optimize.errors import ProveserveError
from serve import logs

_DISTRIBUTIONS = {"ray": "ray", "grpc": "grpcio"}


class Purpose(StrEnum):
    """What goes wrong without a patch."""

    EXPOSURE = "exposure"  # callers reach more than they should
    CORRECTNESS = "correctness"  # the service does not do what it promises
    SPEED = "speed"  # the service takes longer


class Patch(NamedTuple):
    """A name to replace, such as ``package.module:Class.method``, and `why`: a clause that starts with "so that".

    `used_by` is the function that must look the name up, since a name that nothing looks up can be replaced without any effect.
    `relies_on` has the parameters and attributes of the original that the replacement needs.
    """

    target: str
    purpose: Purpose
    why: str
    used_by: str
    relies_on: tuple[str, ...] = ()

    @property
    def needed(self) -> bool:
        """Whether a service must not start without it."""
        return self.purpose is not Purpose.SPEED


def replace(patch: Patch, make: Callable[[Any], Any]) -> None:
    """Put `make(original)` where the original is.

    Raises:
        ProveserveError: The library has changed, and the patch is needed.
    """
    problem = _problem(patch)
    if problem is None:
        owner, name = owner_of(patch.target)
        setattr(owner, name, make(getattr(owner, name)))
    elif patch.needed:
        raise _refusal(patch, problem)
    else:
        logs.event("patch_skipped", logging.WARNING, target=patch.target, reason=problem)


def check(patches: Iterable[Patch]) -> None:
    """Check that every needed patch can be made, before the processes start that make it.

    Raises:
        ProveserveError: One cannot.
    """
    for patch in patches:
        if patch.needed and (problem := _problem(patch)) is not None:
            raise _refusal(patch, problem)


def _problem(patch: Patch) -> str | None:
    """What is missing for a patch in the installed library; None if nothing is."""
    distribution = _DISTRIBUTIONS[patch.target.partition(".")[0]]
    installed = f"{distribution} {importlib.metadata.version(distribution)}"
    original, user = _find(patch.target), _find(patch.used_by)
    if original is None:
        return f"{installed} has no {patch.target}"
    if user is None or patch.target.replace(":", ".").rpartition(".")[2] not in _names(user):
        return f"{installed} does not use {patch.target} in {patch.used_by}"
    missing = [name for name in patch.relies_on if name not in _names(original)]
    return f"{installed} has no {', '.join(missing)} in {patch.target}" if missing else None


def _refusal(patch: Patch, problem: str) -> ProveserveError:
    distribution = _DISTRIBUTIONS[patch.target.partition(".")[0]]
    return ProveserveError(f"{problem}; that name has to be replaced {patch.why}; install {_requirement(distribution)}")


def _requirement(distribution: str) -> str:
    """What this release requires of a library, such as ``ray[serve]==2.60.*``."""
    requirements = importlib.metadata.requires("proveserve") or ()
    found = (text.partition(";")[0].strip() for text in requirements)
    return next(text for text in found if text.startswith((f"{distribution}[", f"{distribution}<", f"{distribution}>")))


def _find(target: str) -> Any:
    try:
        owner, name = owner_of(target)
    except (ImportError, AttributeError):
        return None
    return vars(owner).get(name)  # not what a base class has under that name


def owner_of(target: str) -> tuple[Any, str]:
    """What has the name, and the name in it."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    return owner, name


def _names(found: Any) -> set[str]:
    """Parameters of a function and the names in its code; of a class, its attributes and what its constructor has."""
    if isinstance(found, FunctionType):
        code = found.__code__
        return {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount], *code.co_names}
    if isinstance(found, type):
        return {*dir(found), *_names(inspect.getattr_static(found, "__init__"))}
    return set()
