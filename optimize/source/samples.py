"""The labelled samples of a model in three splits: what the user's callable gives, and the checks on it."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from optimize.arrays import Array, Arrays
from optimize.errors import SourceError
from optimize.manifest import Signature
from optimize.source.imports import user_code

Split = Literal["calibration", "selection", "confirmation"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Batch:
    """Some rows that share one shape: arrays by input name, and one label per row where there are labels."""

    inputs: Arrays
    labels: Array | None


def collect(produce: Callable[[str], Iterable[Any]], split: Split, spec: str) -> list[Batch]:
    """Call the user's `samples(split)` and check what it returns.

    Raises:
        SourceError: It fails, gives no sample, or gives something other than (dict of arrays, labels or None).
    """
    with user_code(f"{spec}({split!r}) failed"):
        items = list(produce(split))
    batches = [_batch(item, f"{spec}({split!r}), item {index}") for index, item in enumerate(items)]
    if not batches:
        raise SourceError(f"{spec}({split!r}) gave no sample; wanted at least one (inputs, labels) pair")
    return batches


def _batch(item: object, where: str) -> Batch:
    if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], Mapping):
        raise SourceError(
            f"{where} is {type(item).__name__}; wanted a pair (dict of input name -> array, labels or None)"
        )
    if not item[0]:
        raise SourceError(f"{where} has no input; wanted a dict of input name -> array")
    inputs = {name: checked_array(value, f"{where}: input {name!r}") for name, value in item[0].items()}
    labels = None if item[1] is None else checked_array(item[1], f"{where}: the label column")
    if labels is not None and labels.ndim == 0:
        raise SourceError(f"{where}: labels are a single value; wanted one entry per row")
    return Batch(inputs, labels)


def checked_array(value: object, what: str) -> Array:
    """The value as an array of numbers, booleans or `str` objects; `what` names it in errors.

    Raises:
        SourceError: Its rows differ in shape, or it holds other Python objects.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise SourceError(
            f"{what} has rows of different shapes; wanted one shape per batch, so yield them separately"
        ) from None
    if array.dtype == object and not all(isinstance(entry, str | bytes) for entry in array.flat):
        raise SourceError(f"{what} holds Python objects; wanted numbers, booleans or strings of one shape")
    return _text(array, what) if array.dtype.kind in "OSU" else array


def _text(array: Array, what: str) -> Array:
    """Strings as `str` objects: bytes are UTF-8, as in ONNX and over gRPC."""
    try:
        entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in array.flat]
    except UnicodeDecodeError:
        raise SourceError(
            f"{what} holds bytes that are not UTF-8 text; wanted text, or numbers such as uint8"
        ) from None
    return np.array(entries, dtype=object).reshape(array.shape)


def row_digest(row: Mapping[str, Any]) -> bytes:
    """A digest of one row's inputs, in any order."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(row):
        value = np.asarray(row[name])
        text = value.dtype.kind in "OUS"
        digest.update(f"{name}|{'text' if text else value.dtype.kind}|{value.shape}|".encode())
        digest.update(repr(value.tolist()).encode() if text else value.tobytes())
    return digest.digest()


def check_labels(batches: Iterable[Batch], signature: Signature, split: Split, *, needed: bool) -> None:
    """Refuse labels that do not have one entry per row, and missing labels where they are `needed`.

    Raises:
        SourceError: A batch has more or fewer labels than rows, or none.
    """
    for index, batch in enumerate(batches):
        rows = row_count(signature, batch.inputs)
        if batch.labels is None:
            if needed:
                raise SourceError(
                    f"{split}, item {index}: has no labels, which accuracy.max_drop needs; add them, or budget"
                    " accuracy.min_agreement alone"
                )
        elif len(batch.labels) != rows:
            batched = any(spec.batch_axis is not None for spec in signature.inputs)
            hint = "" if batched else "; no input has an axis named `batch`: declare the inputs with one"
            raise SourceError(
                f"{split}, item {index}: {len(batch.labels)} labels for {rows} rows; wanted one label per row{hint}"
            )


def row_count(signature: Signature, inputs: Mapping[str, Array]) -> int:
    """Rows of one batch: the size of the axis named batch, or 1 if no input has it."""
    for spec in signature.inputs:
        axis = spec.batch_axis
        if axis is not None and spec.name in inputs and inputs[spec.name].ndim > axis:
            return int(inputs[spec.name].shape[axis])
    return 1


def each_row(signature: Signature, batch: Batch) -> Iterator[tuple[Arrays, Any]]:
    """Each row of a batch as a separate request, with its label."""
    count = row_count(signature, batch.inputs)
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    for index in range(count):
        inputs = {
            name: value if axes.get(name) is None else value.take([index], axis=axes[name])
            for name, value in batch.inputs.items()
        }
        yield inputs, (None if batch.labels is None else batch.labels[index])


def check_disjoint(signature: Signature, splits: Mapping[Split, list[Batch]]) -> None:
    """Refuse splits that share a sample: a candidate must not be judged on what it was calibrated or chosen on.

    Raises:
        SourceError: Some sample is in two splits.
    """
    digests = {
        name: {row_digest(inputs) for batch in batches for inputs, _ in each_row(signature, batch)}
        for name, batches in splits.items()
    }
    for first, second in itertools.combinations(digests, 2):
        shared = len(digests[first] & digests[second])
        if shared:
            raise SourceError(
                f"splits {first} and {second} share {shared} samples; wanted disjoint splits: drop duplicates first"
            )


def digest_splits(splits: Mapping[Split, list[Batch]]) -> str:
    """Digest of all samples and labels, in order."""
    total = hashlib.sha256()
    for name in SPLITS:
        for batch in splits.get(name, []):
            total.update(name.encode())
            total.update(row_digest(batch.inputs))
            if batch.labels is not None:
                total.update(row_digest({"label": batch.labels}))
    return total.hexdigest()


def subset(signature: Signature, batches: list[Batch], wanted: int, seed: int) -> list[Batch]:
    """At most `wanted` rows of a split: in proportion to their labels if these are discrete, else at random."""
    counts = [row_count(signature, batch.inputs) for batch in batches]
    labels = None
    if all(batch.labels is not None for batch in batches):
        labels = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
    chosen = _stratified(labels, sum(counts), wanted, seed)
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    kept, start = [], 0
    for batch, count in zip(batches, counts, strict=True):
        rows_kept = chosen[(chosen >= start) & (chosen < start + count)] - start
        start += count
        if rows_kept.size:
            inputs = {
                name: value if (axis := axes[name]) is None else value.take(rows_kept, axis=axis)
                for name, value in batch.inputs.items()
            }
            kept.append(Batch(inputs, None if batch.labels is None else batch.labels[rows_kept]))
    return kept


def is_discrete(labels: Array, count: int) -> bool:
    """Whether there is one whole number, boolean or text per row."""
    return labels.ndim == 1 and labels.dtype.kind in "iubUO" and len(labels) == count


def _stratified(labels: Array | None, count: int, wanted: int, seed: int) -> npt.NDArray[np.intp]:
    generator = np.random.default_rng(seed)
    if wanted >= count:
        return np.arange(count)
    if labels is None or not is_discrete(labels, count) or len(Counter(labels.tolist())) > wanted:
        return np.sort(generator.choice(count, wanted, replace=False))
    order = generator.permutation(count)
    # Evenly spaced entries of a shuffled order, sorted by label, keep every label's share within one sample.
    by_label = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_label[np.linspace(0, count - 1, wanted).round().astype(np.intp)])
