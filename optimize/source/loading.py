"""Load a model's source and its samples, check both, and digest them, so that later stages know whether anything changed.

This runs in a child process, since it imports the user's code.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from optimize.budgets import BATCH, Dim, ModelBudgets
from optimize.errors import ArtifactError, InputError, SourceError
from optimize.manifest import SessionOptions, Signature, TensorSpec, digest_of
from optimize.runtime.session import OnnxSession, check_inputs
from optimize.source.imports import attribute, code_digest
from optimize.source.model import is_onnx, load_torch
from optimize.source.preprocess import Preprocess, raw_requests
from optimize.source.sample_file import splits_from_file
from optimize.source.samples import (
    SPLITS,
    Batch,
    Split,
    check_disjoint,
    check_labels,
    collect,
    digest_splits,
    row_count,
    subset,
)
from optimize.source.split_file import store_split

ANALYSIS_THREADS = 2
SCREEN, PROBE = "screen", "probe"
"""Names of two parts of the selection split: for a candidate's first accuracy check, and for measuring its memory."""
PART_ROWS = {SCREEN: 256, PROBE: 8}
RAW = "raw"
"""Name of the requests as raw columns, before `preprocess`."""
_RAW_REQUESTS = 64
_PART_SEED = 20_240_102


class Source(Struct, frozen=True):
    """What was read of a model: its samples per split, and digests of the source, of the samples, and of the user's own code.

    The digest of the code for `accuracy.metric` or `preprocess` is empty where there is none.
    """

    source_digest: str
    data_digest: str
    rows: dict[str, int]
    runtime: str
    metric_digest: str
    preprocess_digest: str


def read(budgets: ModelBudgets, base: Path, folder: Path) -> Source:
    """Load the source and its samples, check and digest both, and store the splits in `folder`.

    Raises:
        SourceError: The source or its samples cannot be used.
    """
    digest, runtime = _source(budgets, base)
    inputs = Signature(inputs=declared_inputs(budgets, base), outputs=())
    splits = _splits(budgets, base, inputs)
    if budgets.preprocess is not None:
        preprocess = Preprocess(budgets.preprocess, base)
        raw = raw_requests(splits.get("selection", []), budgets.latency.batch, _RAW_REQUESTS)
        if splits and not raw:
            raise SourceError(
                f"selection has no item of latency.batch = {budgets.latency.batch} rows; wanted raw columns of that many rows to"
                " time `preprocess` with: yield larger items"
            )
        store_split(folder / f"{RAW}.npz", raw)
        splits = {split: preprocess.batches(batches) for split, batches in splits.items()}
    for split, batches in splits.items():
        _check_inputs(budgets.dims, inputs, batches, split)
        check_labels(batches, inputs, split, needed=budgets.accuracy.max_drop is not None)
        store_split(folder / f"{split}.npz", batches)
    for part, count in PART_ROWS.items() if splits else ():
        store_split(folder / f"{part}.npz", subset(inputs, splits["selection"], count, _PART_SEED))
    check_disjoint(inputs, splits)
    rows: dict[str, int] = {
        split: sum(row_count(inputs, batch.inputs) for batch in batches) for split, batches in splits.items()
    }
    # Code is digested last, when the factory, the samples and the metric have imported all that they need.
    metric = _metric_digest(budgets, base)
    code = "" if budgets.preprocess is None else code_digest(base)
    return Source(digest(), digest_splits(splits), rows, runtime, metric, code)


def _source(budgets: ModelBudgets, base: Path) -> tuple[Callable[[], str], str]:
    """A function that digests the source, and the runtime that runs it."""
    path = base / budgets.source
    if is_onnx(budgets):
        return partial(_onnx_digest, path), "onnxruntime-cpu"
    model = load_torch(budgets, base, ANALYSIS_THREADS)
    return partial(digest_of, path) if path.suffix == ".pt2" else model.digest, model.runtime


def _metric_digest(budgets: ModelBudgets, base: Path) -> str:
    """Digest of the code of a custom metric; empty if the metric is built in."""
    if ":" not in budgets.accuracy.metric:
        return ""
    attribute(budgets.accuracy.metric, base)
    return code_digest(base)


def _onnx_digest(path: Path) -> str:
    """Digest of an ONNX file and of its external data."""
    import onnx  # noqa: PLC0415

    total = hashlib.sha256(digest_of(path).encode())
    graph = onnx.load(path, load_external_data=False).graph
    names = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    for name in sorted(names):
        total.update(f"{name}|{digest_of(path.parent / name)}".encode())
    return total.hexdigest()


def _splits(budgets: ModelBudgets, base: Path, inputs: Signature) -> dict[Split, list[Batch]]:
    if budgets.data is None:
        return {}
    if budgets.data.endswith((".npz", ".parquet")):
        return splits_from_file(base / budgets.data, inputs)
    produce = attribute(budgets.data, base)
    return {split: collect(produce, split, budgets.data) for split in SPLITS}


def _check_inputs(dims: Mapping[str, Dim], inputs: Signature, batches: list[Batch], split: Split) -> None:
    """Refuse samples that serving would refuse; a batch may have any number of rows, since it is cut later."""
    batched = any(spec.batch_axis is not None for spec in inputs.inputs)
    fix = (
        "change the sample, or what budgets.toml declares"
        if batched
        else f"declare the inputs with an axis named `{BATCH}`"
    )
    served = Signature(inputs.inputs, (), {name: dim for name, dim in dims.items() if name != BATCH})
    for index, batch in enumerate(batches):
        where = f"{split}, item {index}"
        try:
            check_inputs(served, batch.inputs)
        except InputError as error:
            raise SourceError(f"{where}: {error}; {fix}") from None
        for name, array in batch.inputs.items():
            if not array.size:
                raise SourceError(f"{where}: input {name!r} is empty, its shape is {list(array.shape)}; wanted samples")


def declared_inputs(budgets: ModelBudgets, base: Path) -> tuple[TensorSpec, ...]:
    """The inputs as budgets.toml declares them, or else as the ONNX file does."""
    declared = tuple(TensorSpec(name, spec.dtype, spec.shape, spec.pad) for name, spec in budgets.inputs.items())
    if not is_onnx(budgets):
        return declared
    with _opened_source(base / budgets.source) as session:
        own = session.inputs
    wanted = {spec.name: (spec.dtype, len(spec.shape)) for spec in own}
    if declared and wanted != {spec.name: (spec.dtype, len(spec.shape)) for spec in declared}:
        said = ", ".join(f"{spec.name}: {spec.dtype}{list(spec.shape)}" for spec in own)
        raise SourceError(f"{budgets.source}: its inputs are {said}; budgets.toml declares others: fix `inputs`")
    return declared or own


def _opened_source(path: Path) -> OnnxSession:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; `source` is relative to the budgets file")
    try:
        return OnnxSession(path, SessionOptions(threads=ANALYSIS_THREADS))
    except ArtifactError as error:
        raise SourceError(str(error)) from None
