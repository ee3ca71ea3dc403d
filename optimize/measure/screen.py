"""A first look at a candidate: whether it opens, its answers are sane, and it is anywhere near its limits."""

from itertools import cycle
from pathlib import Path

import numpy as np
from msgspec import Struct

from optimize.arrays import Array
from optimize.budgets import BATCH
from optimize.errors import CandidateError, ExecutionError
from optimize.manifest import Signature, TensorSpec
from optimize.measure.workload import opt_sizes, requests, timed
from optimize.source.model_ref import ModelRef, opened

SANITY_CALLS = 8
SCREEN_CALLS = 20


class Screen(Struct, frozen=True):
    """Median latency of 20 calls, after 8 whose answers were checked."""

    median_ms: float
    calls: int


def measure(model_ref: ModelRef, signature: Signature, split: Path, batch: int) -> Screen:
    """Open a model, check eight answers, and time twenty calls.

    Raises:
        CandidateError: It fails, answers NaN or infinity, or answers in another shape or dtype than the model does.
    """
    inputs = requests(signature, split, opt_sizes(signature, batch))
    with opened(model_ref) as session:
        for arrays in inputs[:SANITY_CALLS]:
            try:
                answers = session.run(arrays)
            except ExecutionError as error:
                raise CandidateError(f"fails on real samples: {error}") from error
            for spec in signature.outputs:
                _check(spec, answers.get(spec.name), batch)
        rotation = cycle(inputs)
        latencies = [timed(session, rotation) for _ in range(SCREEN_CALLS)]
    return Screen(float(np.median(latencies)), SCREEN_CALLS)


def _check(spec: TensorSpec, value: Array | None, batch: int) -> None:
    if value is None or not _fits(spec, value, batch):
        found = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
        raise CandidateError(f"output {spec.name!r} is {found}; wanted {spec.dtype}{list(spec.shape)}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise CandidateError(f"answers NaN or infinity in output {spec.name!r} on real samples")


def _fits(spec: TensorSpec, value: Array, batch: int) -> bool:
    dtype = "object" if value.dtype.kind in "OUS" else str(value.dtype)
    wanted = [batch if axis == BATCH else axis for axis in spec.shape]
    return (
        dtype == spec.dtype
        and value.ndim == len(wanted)
        and all(isinstance(axis, str) or axis == size for axis, size in zip(wanted, value.shape, strict=True))
    )
