"""Inputs and the answers that a winner gave to them, which every loader replays before it says ready."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.manifest import Signature
from optimize.measure.workload import opt_sizes, requests
from optimize.source.samples import Arrays
from optimize.subject import Subject, opened

GOLDEN = "golden.npz"
_COUNT = 8
# Other kernels of the same library round otherwise; a wrong file or a wrong runtime differs by far more.
_RTOL, _ATOL_SHARE = 1e-3, 1e-3


class Recorded(Struct, frozen=True):
    """How many answers were recorded, and within what they must be met."""

    count: int
    atol: float
    rtol: float


def record(subject: Subject, signature: Signature, split: Path, folder: Path) -> Recorded:
    """Write `folder`/golden.npz: arrays `in/INDEX/NAME` and `out/INDEX/NAME` for eight single-row requests at the `opt` dims."""
    smallest = signature.dims["batch"].min if "batch" in signature.dims else 1
    inputs = requests(signature, split, opt_sizes(signature, smallest))[:_COUNT]
    arrays: Arrays = {}
    largest = 0.0
    with opened(subject) as session:
        for index, request in enumerate(inputs):
            answers = session.run(request)
            arrays |= {f"in/{index}/{name}": _plain(value) for name, value in request.items()}
            arrays |= {f"out/{index}/{name}": _plain(value) for name, value in answers.items()}
            largest = max(
                [
                    largest,
                    *(float(np.abs(value).max(initial=0.0)) for value in answers.values() if value.dtype.kind == "f"),
                ]
            )
    np.savez(folder / GOLDEN, allow_pickle=False, **arrays)
    return Recorded(len(inputs), _ATOL_SHARE * max(largest, 1e-3), _RTOL)


def _plain(value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return value.astype(str) if value.dtype == object else value
