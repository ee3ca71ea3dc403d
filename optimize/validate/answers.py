"""Run a model over the samples of a split once, at the batch sizes that serving uses."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.budgets import BATCH
from optimize.errors import CandidateError, ExecutionError
from optimize.execution.machine import cores
from optimize.manifest import Signature
from optimize.runtime.session import Session
from optimize.source.model_ref import ModelRef, opened_instances
from optimize.source.samples import Batch, row_count
from optimize.source.split_file import read_split, storable


def record(
    model_ref: ModelRef,
    signature: Signature,
    split: Path,
    target: Path,
    *,
    row_by_row: bool = False,
) -> int:
    """Store the answers to a split, and return the rows.

    A batch is the largest that serving forms, since an answer may depend on its batch, or with `row_by_row` a single row. The
    file holds arrays `INDEX/NAME`, one INDEX per execution.

    Raises:
        CandidateError: The model fails on a batch, or answers NaN though its inputs hold none.
    """
    size = 1 if row_by_row else signature.max_batch
    asked = list(executions(signature, read_split(split), size))
    ends = list(accumulate(rows for _, rows in asked))
    starts = [0, *ends[:-1]]
    arrays: Arrays = {}
    for index, answers in enumerate(_answered(model_ref, [inputs for inputs, _ in asked], starts)):
        for name, value in answers.items():
            arrays[f"{index}/{name}"] = storable(value)
    np.savez(target, allow_pickle=False, **arrays)
    return ends[-1] if ends else 0


def _answered(model_ref: ModelRef, asked: list[Arrays], starts: list[int]) -> Iterator[Arrays]:
    """The answers in the order of the requests, from as many sessions with the measured options as fit the cores."""
    with opened_instances(model_ref, max(1, cores() // model_ref.options.threads)) as sessions:
        idle: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            idle.put(session)

        def answer(inputs: Arrays, start: int) -> Arrays:
            session = idle.get()
            try:
                return _answer(session, inputs, start)
            finally:
                idle.put(session)

        with ThreadPoolExecutor(len(sessions)) as pool:
            yield from pool.map(answer, asked, starts)


def executions(signature: Signature, batches: list[Batch], size: int) -> Iterator[tuple[Arrays, int]]:
    """Cut the samples into executions of at most `size` rows, in order; rows of different batches are never joined."""
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    step = max(size, signature.dims[BATCH].min if BATCH in signature.dims else 1)
    for batch in batches:
        count = row_count(signature, batch.inputs)
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield {name: _cut(value, axes[name], start, stop) for name, value in batch.inputs.items()}, stop - start


def _cut(value: Array, axis: int | None, start: int, stop: int) -> Array:
    return value if axis is None else value[(slice(None),) * axis + (slice(start, stop),)]


def _answer(session: Session, inputs: Arrays, row: int) -> Arrays:
    try:
        answers = session.run(inputs)
    except ExecutionError as error:
        raise CandidateError(f"fails on the samples from row {row} on: {error}") from error
    for name, value in answers.items():
        if value.dtype.kind == "f" and np.isnan(value).any() and not any(_has_nan(array) for array in inputs.values()):
            raise CandidateError(f"answers NaN in output {name!r} on the samples from row {row} on")
    return answers


def _has_nan(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def read_output(path: Path, signature: Signature, name: str) -> list[Array]:
    """The stored answers of one output, one array per row; an output without a batch axis counts as one row per execution."""
    axis = next(spec.batch_axis for spec in signature.outputs if spec.name == name)
    found: list[Array] = []
    with np.load(path, allow_pickle=False) as archive:
        for key in sorted(
            (key for key in archive.files if key.split("/", 1)[1] == name), key=lambda key: int(key.split("/", 1)[0])
        ):
            value = archive[key]
            found.extend([value] if axis is None else np.moveaxis(value, axis, 0))
    return found
