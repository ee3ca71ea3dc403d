"""Histograms of the values that tensors take on calibration samples, in bounded memory.

The range of each tensor is known beforehand, so that histograms of batches of any shape add up. Activations are fetched for one group
of tensors at a time, each group as large as memory allows; the graph runs once per group and batch.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from optimize.arrays import Array
from optimize.recipes import ranges
from optimize.recipes.calibration import Batch
from optimize.recipes.clipping import Histogram
from optimize.recipes.graph import Names, normalised
from optimize.recipes.ranges import Range

BINS = 4096
ENOUGH_VALUES = 100_000_000
"""Values of all tensors together that suffice to show how each is distributed."""

FETCH_LIMIT_BYTES = 256_000_000
"""Activations in memory at a time; a tensor larger than that is fetched alone."""


def collect(
    source: Path,
    found: Mapping[str, Range],
    batches: Sequence[Batch],
    *,
    least: int | None = None,
    limit_bytes: int = FETCH_LIMIT_BYTES,
) -> dict[str, Histogram]:
    """A histogram of each tensor of `found` over its range, from all batches.

    With `least`, batches beyond that number are left out once enough values were counted.

    Raises:
        CandidateError: The graph does not run on a batch.
    """
    names = sorted(found)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    with tempfile.TemporaryDirectory(prefix="proveserve-") as folder:
        model, _ = normalised(source)
        sizes = _report_values(model, names)
        session = ranges.opened(model, Path(folder))
        largest = max(batches, key=lambda batch: sum(array.size for array in batch.values()))
        elements = dict(zip(names, map(int, ranges.run(session, sizes, largest)), strict=True))
        taken = len(batches) if least is None else max(least, ENOUGH_VALUES // max(1, sum(elements.values())))
        for group in groups(elements, limit_bytes // 4):
            for batch in batches[:taken]:
                for name, values in zip(group, ranges.run(session, group, batch), strict=True):
                    counts[name] += binned(values, found[name])
    return {name: Histogram(counts[name], *found[name]) for name in names}


def groups(elements: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Names in groups of at most `limit` elements together; a larger one gets a group for itself."""
    group: list[str] = []
    held = 0
    for name, count in elements.items():
        if group and held + count > limit:
            yield group
            group, held = [], 0
        group.append(name)
        held += count
    if group:
        yield group


def binned(values: Array, found: Range) -> Array:
    """Counts of the values in equal bins over the range; values outside it count in the outermost."""
    width = (found.high - found.low) / BINS
    if width <= 0 or not np.isfinite(width):
        return np.zeros(BINS, np.int64)
    index = ((values.ravel() - np.float32(found.low)) / np.float32(width)).astype(np.int32)
    return np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)


def _report_values(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Make each named value an output, and its number of elements another; return the names of the latter."""
    taken = Names(model.graph)
    present = {value.name for value in model.graph.output}
    sizes = []
    for name in names:
        size = taken.fresh(f"{name}_elements")
        model.graph.node.append(helper.make_node("Size", [name], [size]))
        model.graph.output.append(onnx.ValueInfoProto(name=size))
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        sizes.append(size)
    return sizes
