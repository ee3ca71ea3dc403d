"""Inputs and a winner's answers to them, which every loader replays before it reports ready."""

from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.budgets import BATCH
from optimize.manifest import Signature
from optimize.measure.workload import opt_sizes, requests
from optimize.source.model_ref import ModelRef, opened
from optimize.source.split_file import storable

GOLDEN = "golden.npz"
_COUNT = 8
# Other kernels of the same library round differently; a wrong file or a wrong runtime differs by far more.
_RTOL, _ATOL_SHARE = 1e-3, 1e-3


class Recorded(Struct, frozen=True):
    """How many answers were recorded, and the tolerances that a replay must keep."""

    count: int
    atol: float
    rtol: float


def record(model_ref: ModelRef, signature: Signature, split: Path, folder: Path) -> Recorded:
    """Write `folder`/golden.npz: arrays `in/INDEX/NAME` and `out/INDEX/NAME` for eight single-row requests at the `opt` dims."""
    smallest = signature.dims[BATCH].min if BATCH in signature.dims else 1
    inputs = requests(signature, split, opt_sizes(signature, smallest))[:_COUNT]
    arrays: Arrays = {}
    largest = 0.0
    with opened(model_ref) as session:
        for index, request in enumerate(inputs):
            answers = session.run(request)
            arrays |= {f"in/{index}/{name}": storable(value) for name, value in request.items()}
            arrays |= {f"out/{index}/{name}": storable(value) for name, value in answers.items()}
            numbers = [value[np.isfinite(value)] for value in answers.values() if value.dtype.kind == "f"]
            largest = max([largest, *(float(np.abs(value).max(initial=0.0)) for value in numbers)])
    np.savez(folder / GOLDEN, allow_pickle=False, **arrays)
    return Recorded(len(inputs), _ATOL_SHARE * max(largest, 1e-3), _RTOL)
