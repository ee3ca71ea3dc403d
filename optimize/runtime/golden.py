"""Replay a version's golden inputs, to show that the model still answers as it did when it was measured."""

import zipfile
from pathlib import Path

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, ExecutionError, first_line
from optimize.manifest import Golden
from optimize.runtime.session import Session


def replay(session: Session, npz_path: Path, golden: Golden) -> None:
    """Run every golden input and compare the answers with the recorded ones.

    Floating-point answers may differ by `atol + rtol * |recorded|`; integers, booleans and strings must be equal.

    Raises:
        ArtifactError: The file is damaged, the session fails on a golden input, or an answer differs.
    """
    for index, (inputs, recorded) in enumerate(load(npz_path, golden)):
        try:
            answers = session.run(inputs, list(recorded))
        except ExecutionError as error:
            raise ArtifactError(
                f"golden input {index}: the model fails on it: {error}; export the model again"
            ) from None
        for name, wanted in recorded.items():
            difference = _difference(answers[name], wanted, golden)
            if difference is not None:
                raise ArtifactError(
                    f"golden input {index}: output {name!r} {difference}; this machine does not reproduce the published"
                    " answers: export the model here"
                )


def load(npz_path: Path, golden: Golden) -> list[tuple[Arrays, Arrays]]:
    """Inputs and recorded answers, by index.

    Raises:
        ArtifactError: The file is damaged.
    """
    pairs: list[tuple[Arrays, Arrays]] = [({}, {}) for _ in range(golden.count)]
    try:
        with npz_path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                side, index, name = key.split("/", maxsplit=2)
                pairs[int(index)][("in", "out").index(side)][name] = _as_fed(archive[key])
    except (OSError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{golden.blob.name}: not a golden file of {golden.count} inputs ({first_line(error)}); export the model again"
        ) from None
    for index, (_, recorded) in enumerate(pairs):
        if not recorded:
            raise ArtifactError(f"{golden.blob.name}: has no answer to golden input {index}; export the model again")
    return pairs


def _as_fed(array: Array) -> Array:
    """Strings are stored at a fixed width, since an object array would need pickle; onnxruntime wants them as objects."""
    return array.astype(object) if array.dtype.kind == "U" else array


def _difference(answer: Array, wanted: Array, golden: Golden) -> str | None:
    """How an answer differs from the recorded one, or None where it does not."""
    if answer.shape != wanted.shape or answer.dtype != wanted.dtype:
        return f"is {answer.dtype}{list(answer.shape)}, recorded was {wanted.dtype}{list(wanted.shape)}"
    if answer.dtype.kind != "f":
        changed = int(np.count_nonzero(answer != wanted))
        return f"differs in {changed} of {wanted.size} values" if changed else None
    if np.allclose(answer, wanted, rtol=golden.rtol, atol=golden.atol, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        worst = float(np.max(np.abs(answer.astype(np.float64) - wanted.astype(np.float64))))
    return f"differs by up to {worst:.3g}, allowed is {golden.atol:g} + {golden.rtol:g} of the recorded value"
