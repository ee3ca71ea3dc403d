"""Collate the rows of several requests into one execution's inputs, and split its outputs again.

Rows are collated and split along the axis named `batch`, whatever its position. Inputs without that axis are shared, so they must be
byte-equal. Every other dynamic dimension must be equal too, unless all inputs that carry it declare a `pad` value: then shorter
rows are padded to the longest, and outputs that carry the same dimension are cut back to each request's own size.
"""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.budgets import BATCH
from optimize.errors import ArtifactError
from optimize.manifest import Signature, TensorSpec

Shape = tuple[int, ...]


class Collator:
    """How requests of one model share an execution. Knows only the signature, and keeps nothing of a request."""

    def __init__(self, signature: Signature) -> None:
        self.dims, places = _dims(signature.inputs)
        self._places = tuple(places)
        self._padded = _paddable(signature.inputs)
        self._equal = tuple(index for index, dim in enumerate(self.dims) if dim not in self._padded)
        self._shared = tuple(spec for spec in signature.inputs if spec.batch_axis is None)
        self._inputs = signature.inputs
        self._outputs = {spec.name: spec for spec in signature.outputs}

    def shape(self, inputs: Mapping[str, Array]) -> Shape:
        """The sizes of the dynamic dimensions other than batch, in the order of :attr:`dims`."""
        return tuple([inputs[name].shape[axis] for name, axis in self._places])

    def group(self, inputs: Mapping[str, Array], shape: Shape) -> Hashable:
        """A key: two requests may share an execution exactly when their keys are equal."""
        if not self._equal and not self._shared:
            return ()
        return (
            tuple([shape[index] for index in self._equal]),
            tuple([_content(inputs[spec.name]) for spec in self._shared]),
        )

    def collate(self, requests: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
        """The inputs of one execution that answers all `requests`, in their order; they must be of one group."""
        if len(requests) == 1:
            return requests[0]
        collated: Arrays = {}
        for spec in self._inputs:
            parts = [request[spec.name] for request in requests]
            collated[spec.name] = parts[0] if spec.batch_axis is None else _stacked(parts, spec, spec.batch_axis)
        return collated

    def split(self, outputs: Arrays, rows: Sequence[int], shapes: Sequence[Shape]) -> list[Arrays]:
        """Each request's part of one execution's outputs, as views, given every request's rows and shape.

        Raises:
            ArtifactError: An output does not have one row for each that went in.
        """
        if len(rows) == 1:
            return [outputs]
        ends = list(itertools.accumulate(rows, initial=0))
        own_sizes = self._own_sizes(shapes)
        answers: list[Arrays] = [{} for _ in rows]
        for name, array in outputs.items():
            spec = self._outputs[name]
            axis = spec.shape.index(BATCH)
            if array.shape[axis] != ends[-1]:
                raise ArtifactError(
                    f"output {name!r} has {array.shape[axis]} rows for {ends[-1]} that went in; wanted one each: "
                    "fix the model, or name its output axes in budgets.toml"
                )
            padded = [(place, own_sizes[dim]) for place, dim in enumerate(spec.shape) if dim in own_sizes]
            index: list[Any] = [slice(None)] * array.ndim
            for request, answer in enumerate(answers):
                index[axis] = slice(ends[request], ends[request + 1])
                for place, sizes in padded:
                    index[place] = slice(sizes[request])
                answer[name] = array[tuple(index)]
        return answers

    def _own_sizes(self, shapes: Sequence[Shape]) -> dict[int | str, Shape]:
        """The dimensions in which some request was padded, with every request's own size."""
        if not self._padded or all(shape == shapes[0] for shape in shapes):
            return {}
        sizes = dict(zip(self.dims, zip(*shapes, strict=True), strict=True))
        return {dim: sizes[dim] for dim in self._padded if len(set(sizes[dim])) > 1}


def _dims(inputs: Sequence[TensorSpec]) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """The dynamic dimensions other than batch, and one input axis that shows the size of each."""
    places: dict[str, tuple[str, int]] = {}
    for spec in inputs:
        for axis, dim in enumerate(spec.shape):
            if isinstance(dim, str) and dim != BATCH:
                places.setdefault(dim, (spec.name, axis))
    return tuple(places), list(places.values())


def _paddable(inputs: Sequence[TensorSpec]) -> frozenset[str]:
    """The dimensions that may be padded: all inputs that carry one have a pad value and a batch axis."""
    carried = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)}
    refused = {
        dim
        for spec in inputs
        for dim in spec.shape
        if spec.pad is None or spec.batch_axis is None or spec.dtype == "object"
    }
    return frozenset(carried - refused - {BATCH})


def _content(array: Array) -> Hashable:
    """A key: two arrays of the same dtype and shape have equal keys exactly when they are equal byte for byte."""
    return tuple(array.ravel().tolist()) if array.dtype.hasobject else array.tobytes()


def _stacked(parts: Sequence[Array], spec: TensorSpec, axis: int) -> Array:
    sizes = list(zip(*(part.shape for part in parts), strict=True))
    if all(len(set(size)) == 1 for place, size in enumerate(sizes) if place != axis):
        return np.concatenate(parts, axis=axis)
    shape = [max(size) for size in sizes]
    shape[axis] = sum(sizes[axis])
    stacked = np.full(shape, spec.pad, dtype=parts[0].dtype)
    start = 0
    for part in parts:
        index = [slice(size) for size in part.shape]
        index[axis] = slice(start, start + part.shape[axis])
        stacked[tuple(index)] = part
        start += part.shape[axis]
    return stacked
