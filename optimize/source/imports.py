"""Turn an import string of budgets.toml into the object that it names."""

import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from optimize.errors import ProveserveError, SourceError

_FOREIGN = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")), Path(__file__).parents[1])


def attribute(spec: str, base: Path) -> Any:
    """The object that "file.py:attr" (relative to `base`) or "pkg.mod:attr" names.

    Raises:
        SourceError: The file, module or attribute is not there, or the code fails when it is imported.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise SourceError(f"{spec!r}: wanted `file.py:attr` or `package.module:attr`")
    module = _from_file(spec, base / place) if place.endswith(".py") else _from_name(spec, place, base)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))) or "nothing"
            raise SourceError(f"{spec}: {place} has no attribute {name!r}; it has {public}")
        found = getattr(found, part)
    return found


def _from_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise SourceError(f"{spec}: no file {path}; paths are relative to the budgets file")
    name = f"_proveserve_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise SourceError(f"{spec}: {path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        with user_code(f"{spec}: importing {path.name} failed"):
            module_spec.loader.exec_module(module)
    except ProveserveError:
        del sys.modules[name]
        raise
    return module


def _from_name(spec: str, module: str, base: Path) -> ModuleType:
    sys.path.insert(0, str(base))
    with user_code(f"{spec}: importing {module} failed"):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise SourceError(f"{spec}: no module {error.name!r}; install it, or name a file as file.py:attr") from None


@contextmanager
def user_code(failure: str) -> Iterator[None]:
    """Run the user's code: what it raises becomes a SourceError that begins with `failure`, except for our own errors.

    Raises:
        SourceError: The code raised something, or exited, as a script without a main guard does when it is imported.
    """
    try:
        yield
    except ProveserveError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SourceError(f"{failure}: {type(error).__name__}: {error}") from error


def code_digest(base: Path) -> str:
    """Digest of every Python file of the user that this process has imported, so that a change in any of them shows.

    Installed packages, Python and this tool are identified by their versions instead.
    """
    digest = hashlib.sha256()
    for path in user_files():
        digest.update(os.path.relpath(path, base.absolute()).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def user_files() -> list[Path]:
    """Every Python file of the user that this process has imported, sorted by path."""
    files = {file for module in list(sys.modules.values()) if (file := _file_of(module)) is not None}
    return sorted(file for file in files if file.is_absolute() and file.suffix == ".py" and not _foreign(file))


@contextmanager
def isolated_imports(folder: Path) -> Iterator[None]:
    """Import modules from a folder and forget them afterwards, so that other code with the same names can be imported."""
    paths, known = list(sys.path), dict(sys.modules)
    inside = [name for name, module in known.items() if _is_inside(module, folder)]
    for name in inside:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.path[:] = paths
        for name, module in list(sys.modules.items()):
            if _is_inside(module, folder):
                del sys.modules[name]
        sys.modules.update({name: known[name] for name in inside})


def _is_inside(module: ModuleType, folder: Path) -> bool:
    file = _file_of(module)
    return file is not None and file.is_relative_to(folder) and not _foreign(file)


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _foreign(path: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or any(path.is_relative_to(folder) for folder in _FOREIGN)
