"""The code of a `preprocess` callable, published with a version, so that serving and scoring run what was measured.

Every file of the user that the callable imports goes into the registry; installed packages do not. Raw requests and the inputs made of
them are published too. A loader first checks that the code still makes the same inputs of them.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.arrays import Array, Arrays
from optimize.budgets import BATCH
from optimize.errors import ArtifactError, ExecutionError, SourceError
from optimize.manifest import Golden, Preprocessing, TensorSpec
from optimize.registry import Registry
from optimize.runtime import golden
from optimize.source.imports import isolated_imports, user_files
from optimize.source.preprocess import Preprocess
from optimize.source.split_file import read_split, storable

GOLDEN = "raw.npz"
CODE = "code"
_COUNT = 8


class Taken(Struct, frozen=True):
    """The files of the code, relative to their folder, the raw columns, and the raw requests that were recorded."""

    files: tuple[str, ...]
    columns: tuple[TensorSpec, ...]
    count: int


def take(spec: str, base: Path, raw: Path, folder: Path) -> Taken:
    """Copy the callable's code to `folder`/code, and record what it makes of raw requests in `folder`/raw.npz.

    Raises:
        SourceError: The code needs something that cannot be published, or makes different inputs of the same columns.
    """
    requests = [batch.inputs for batch in read_split(raw)[:_COUNT]]
    with isolated_imports(base):
        foreign = set(user_files())
        preprocess = Preprocess(spec, base)
        made = [preprocess(columns) for columns in requests]
        files = _within(base, [path for path in user_files() if path not in foreign], spec)
    for name in files:
        target = folder / CODE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / name, target)
    arrays = {
        f"in/{index}/{name}": storable(value)
        for index, columns in enumerate(requests)
        for name, value in columns.items()
    }
    arrays |= {
        f"out/{index}/{name}": storable(value) for index, inputs in enumerate(made) for name, value in inputs.items()
    }
    np.savez(folder / GOLDEN, allow_pickle=False, **arrays)
    _check_alone(spec, folder / CODE, requests, made)
    columns = tuple(
        TensorSpec(name, str(value.dtype), (BATCH, *value.shape[1:])) for name, value in requests[0].items()
    )
    return Taken(files, columns, len(requests))


def _within(base: Path, files: Sequence[Path], spec: str) -> tuple[str, ...]:
    """The files' names, relative to the folder of the budgets file."""
    outside = [path for path in files if not path.is_relative_to(base)]
    if outside:
        raise SourceError(
            f"{spec} imports {outside[0].name} from outside the budgets file's folder; serving needs its code: move it there, or"
            " install it as a package"
        )
    return tuple(path.relative_to(base).as_posix() for path in files)


def _check_alone(spec: str, code: Path, requests: list[Arrays], made: list[Arrays]) -> None:
    """Check the copied code against what the original made; called outside of `isolated_imports`, as serving calls it."""
    try:
        with isolated_imports(code):
            preprocess = Preprocess(spec, code)
        again = [preprocess(columns) for columns in requests]
    except SourceError as error:
        raise SourceError(
            f"{spec} does not run from its code alone, as serving runs it ({error}); read files from an installed package, and import"
            " at the top of the module"
        ) from error
    for expected, found in zip(made, again, strict=True):
        if expected.keys() != found.keys() or any(not np.array_equal(expected[name], found[name]) for name in expected):
            raise SourceError(f"{spec} makes different inputs of the same columns; wanted the same inputs each time")


@contextmanager
def restored(preprocessing: Preprocessing, registry: Registry) -> Iterator[Preprocess]:
    """The callable of a published version, after it made the recorded inputs of the recorded columns again.

    Raises:
        ArtifactError: Its code is missing or damaged, needs a package that is missing here, or makes other inputs.
    """
    with tempfile.TemporaryDirectory(prefix="proveserve-") as name:
        folder = Path(name)
        for blob in preprocessing.files:
            target = folder / blob.name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ArtifactError(f"{blob.name}: is outside of the version's code folder; export the model again")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(registry.blob(blob), target)
        try:
            with isolated_imports(folder):
                preprocess = Preprocess(preprocessing.callable, folder)
        except SourceError as error:
            raise ArtifactError(f"preprocess cannot be loaded here: {error}") from error
        golden.replay(_Replayed(preprocess), registry.blob(preprocessing.golden.blob), preprocessing.golden)
        yield preprocess


class _Replayed:
    """The callable as a session, so that its golden requests are replayed like a model's."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        try:
            made = self._preprocess(dict(inputs))
        except SourceError as error:
            raise ExecutionError(str(error)) from error
        return made if outputs is None else {name: made[name] for name in outputs}


def published(spec: str, taken: Taken, folder: Path, registry: Registry) -> Preprocessing:
    """The record of what was taken, its files stored in the registry."""
    files = tuple(registry.put(folder / CODE / name, name) for name in taken.files)
    recorded = Golden(registry.put(folder / GOLDEN, GOLDEN), taken.count, 0.0, 0.0)
    return Preprocessing(spec, taken.columns, files, recorded)
