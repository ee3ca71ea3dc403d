"""From the source model to a baseline ONNX file that provably answers the same.

The FP32 graph is written, its signature found by running it, and its answers held against the source's on real samples. All of this
runs in a child process, since it imports the user's code.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from optimize.arrays import Arrays
from optimize.budgets import BATCH, Dim, ModelBudgets
from optimize.errors import ExecutionError, SourceError, first_line
from optimize.manifest import SessionOptions, Signature, TensorSpec
from optimize.runtime.session import OnnxSession
from optimize.source import samples as sampling
from optimize.source.loading import ANALYSIS_THREADS, declared_inputs
from optimize.source.model import TorchModel, is_onnx, load_torch
from optimize.source.model_ref import ModelRef, opened
from optimize.source.samples import SPLITS, Batch

BASELINE = "baseline.onnx"
_OPSET = 18
# FP32 sums in another order differ by a few units in the last place per layer; a wrong graph differs by far more.
PARITY_RTOL, PARITY_ATOL = 1e-3, 1e-4
_DEFAULT_MAX_BATCH = 32
_CAUSE_CHARACTERS = 300
_OTHER_ROWS = 4
"""Other real rows that a graph is run on, since an output's length may follow what the inputs hold."""


class Conversion(Struct, frozen=True):
    """The baseline's signature, and the largest difference from the source that was seen on real samples."""

    signature: Signature
    max_difference: float


def convert(budgets: ModelBudgets, base: Path, splits: Path, folder: Path) -> Conversion:
    """Write `folder`/baseline.onnx, find its signature and hold it against the source on real samples.

    Raises:
        SourceError: The model cannot be converted, or its graph answers something else.
    """
    stored = {split: sampling.read(path) for split in SPLITS if (path := splits / f"{split}.npz").exists()}
    batches = [batch for split in stored.values() for batch in split]
    inputs = declared_inputs(budgets, base)
    dims = _dims(budgets, inputs, batches)
    target = folder / BASELINE
    if is_onnx(budgets):
        _copy_onnx(base / budgets.source, target)
    else:
        model = load_torch(budgets, base, ANALYSIS_THREADS)
        _export_torch(model, inputs, shaped(inputs, batches, _traceable(dims)), target)
    with OnnxSession(target, SessionOptions(threads=ANALYSIS_THREADS)) as session:
        signature = Signature(inputs, _outputs(budgets, session, inputs, dims, batches), dims)
        difference = _parity(budgets, base, session, signature, batches)
    return Conversion(signature, difference)


def _dims(budgets: ModelBudgets, inputs: tuple[TensorSpec, ...], batches: list[Batch]) -> dict[str, Dim]:
    """Declared ranges; an undeclared dimension takes the sizes that the samples show."""
    dims = dict(budgets.dims)
    for spec in inputs:
        for axis, name in enumerate(spec.shape):
            if isinstance(name, int) or name in dims:
                continue
            seen = sorted(batch.inputs[spec.name].shape[axis] for batch in batches) or [1]
            dims[name] = (
                Dim(1, 1, _DEFAULT_MAX_BATCH) if name == BATCH else Dim(seen[0], seen[len(seen) // 2], seen[-1])
            )
    return dims


def check_latency_batch(rows: int, dims: Mapping[str, Dim]) -> None:
    """Refuse requests of a size that the model does not take, whether its file declares the range or a default does.

    Raises:
        SourceError: They are too large or too small.
    """
    taken = dims.get(BATCH, Dim())
    if not taken.min <= rows <= taken.max:
        why = (
            f"dims.batch goes from {taken.min} to {taken.max}"
            if BATCH in dims
            else "no input has an axis named `batch`"
        )
        raise SourceError(f"latency.batch = {rows}, but {why}; change latency.batch, or declare `inputs` and `dims`")


def _traceable(dims: Mapping[str, Dim]) -> dict[str, int]:
    """Sizes for tracing: at least 2, since the tracer takes a size of 1 (and of 0) for a constant."""
    return {name: max(2, dim.opt) for name, dim in dims.items()}


def shaped(inputs: tuple[TensorSpec, ...], batches: list[Batch], sizes: Mapping[str, int], offset: int = 0) -> Arrays:
    """Real samples brought to the wanted size of each named axis: cut where longer, repeated where shorter.

    `offset` rotates the rows, so that different offsets give different inputs. Where there are no samples, zeros.
    """
    chosen: Arrays = {}
    for spec in inputs:
        if not batches:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
            chosen[spec.name] = np.full(shape, "" if spec.dtype == "object" else 0, dtype=spec.dtype)
            continue
        array = batches[offset % len(batches)].inputs[spec.name]
        for axis, name in enumerate(spec.shape):
            if isinstance(name, str):
                start = offset if name == BATCH else 0
                array = array.take((np.arange(sizes[name]) + start) % array.shape[axis], axis=axis)
        chosen[spec.name] = array
    return chosen


def _copy_onnx(source: Path, target: Path) -> None:
    import onnx  # noqa: PLC0415

    try:
        onnx.checker.check_model(str(source))
        model = onnx.load(source)
    except Exception as error:  # onnx raises a dozen unrelated classes for a bad file
        raise SourceError(f"{source}: not a valid ONNX model: {first_line(error)}") from error
    external = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in onnx.load(source, load_external_data=False).graph.initializer
    )
    if external:
        onnx.save(model, target, save_as_external_data=True, location=f"{BASELINE}.data")
    else:
        shutil.copyfile(source, target)


def _export_torch(model: TorchModel, inputs: tuple[TensorSpec, ...], example: Arrays, target: Path) -> None:
    """Write the module's graph with our names for inputs, outputs and axes."""
    import torch  # noqa: PLC0415

    args, kwargs = model.arguments(model.tensors(example))
    names = list(model.run(example))
    dynamic = {
        spec.name: {axis: torch.export.Dim.DYNAMIC for axis, name in enumerate(spec.shape) if isinstance(name, str)}
        for spec in inputs
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        try:
            program = torch.onnx.export(
                model.module,
                args,
                kwargs=kwargs,
                dynamic_shapes=model.parameters(dynamic),
                # An output named like one of the graph's own values would make the exporter define that name twice.
                output_names=[f"proveserve.{name}" for name in names],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # the exporter raises whatever its stages stumble over
            raise SourceError(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    if program is None:
        raise SourceError("the model cannot be exported to ONNX: the exporter gave no program")
    program.save(str(target), external_data=False)
    by_name = {spec.name: spec for spec in inputs}
    _rename(target, [by_name[name] for name in model.input_names], names)


def _cause(error: BaseException) -> str:
    """What the exporter stumbled over; its own text is advice on its stages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_CAUSE_CHARACTERS]}"


def _rename(path: Path, inputs: list[TensorSpec], outputs: list[str]) -> None:
    """Give the graph's inputs (in the order of the call), outputs and dynamic axes the names that the signature declares."""
    import onnx  # noqa: PLC0415

    model = onnx.load(path)
    graph, graphs = model.graph, list(_with_bodies(model.graph))
    taken = {name for each in graphs for node in each.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for each in graphs for tensor in each.initializer}
    wanted = dict(zip((value.name for value in graph.input), (spec.name for spec in inputs), strict=True))
    wanted |= dict(zip((value.name for value in graph.output), outputs, strict=True))
    # A value of the graph's own that bears a wanted name steps aside.
    aside = {name: f"{name}.internal" for name in set(wanted.values()) & taken - wanted.keys()}
    renamed = wanted | aside
    for each in graphs:
        for node in each.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for value in (*each.input, *each.output, *each.initializer, *each.value_info):
            value.name = renamed.get(value.name, value.name)
    axes = {
        dim.dim_param: name
        for value, spec in zip(graph.input, inputs, strict=True)
        for dim, name in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True)
        if dim.HasField("dim_param") and isinstance(name, str)
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = axes.get(dim.dim_param, dim.dim_param)
    onnx.save(model, path)


def _with_bodies(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its If and Loop nodes, which see its values by name."""
    yield graph
    for node in graph.node:
        for found in node.attribute:
            for body in (found.g, *found.graphs):
                yield from _with_bodies(body)


def _outputs(
    budgets: ModelBudgets,
    session: OnnxSession,
    inputs: tuple[TensorSpec, ...],
    dims: Mapping[str, Dim],
    batches: list[Batch],
) -> tuple[TensorSpec, ...]:
    """The outputs with named axes: as declared, else found by running the graph at three sizes of each dimension."""
    unknown = budgets.outputs.keys() - {spec.name for spec in session.outputs}
    if unknown:
        raise SourceError(
            f"outputs {sorted(unknown)} are declared; the model's are {[spec.name for spec in session.outputs]}"
        )
    if all(spec.name in budgets.outputs for spec in session.outputs):
        return tuple(TensorSpec(spec.name, spec.dtype, budgets.outputs[spec.name].shape) for spec in session.outputs)
    base = {name: dim.min for name, dim in dims.items()}
    shapes: dict[str, list[dict[str, tuple[int, ...]]]] = {}
    for name, dim in dims.items():
        trials = sorted({size for size in (dim.min, dim.min + 1, dim.min + 2) if size <= dim.max} | {dim.min})
        shapes[name] = [_shapes(session, shaped(inputs, batches, base | {name: size})) for size in trials]
    still = _shapes(session, shaped(inputs, batches, base))
    others = [_shapes(session, shaped(inputs, batches, base, offset)) for offset in range(1, _OTHER_ROWS + 1)]
    found = []
    for spec in session.outputs:
        axes: list[int | str] = []
        for axis, size in enumerate(still[spec.name]):
            follows = [
                name
                for name, runs in shapes.items()
                if _follows(dims[name].min, [run[spec.name][axis] for run in runs])
            ]
            varies = any(run[spec.name][axis] != size for runs in (*shapes.values(), others) for run in runs)
            axes.append(follows[0] if follows else f"{spec.name}_{axis}" if varies else size)
        shape = budgets.outputs[spec.name].shape if spec.name in budgets.outputs else tuple(axes)
        found.append(TensorSpec(spec.name, spec.dtype, shape))
    return tuple(found)


def _shapes(session: OnnxSession, inputs: Arrays) -> dict[str, tuple[int, ...]]:
    try:
        return {name: value.shape for name, value in session.run(inputs).items()}
    except ExecutionError as error:
        shapes = {name: list(value.shape) for name, value in inputs.items()}
        raise SourceError(f"the exported graph fails at input shapes {shapes}: {error}; check `dims`") from error


def _follows(smallest: int, sizes: list[int]) -> bool:
    return len(sizes) > 1 and sizes == [smallest + step for step in range(len(sizes))]


def _parity(
    budgets: ModelBudgets, base: Path, session: OnnxSession, signature: Signature, batches: list[Batch]
) -> float:
    """The largest absolute difference between graph and source at the smallest, `opt` and largest dims, on real samples."""
    worst = 0.0
    with opened(ModelRef(budgets, base, SessionOptions(threads=ANALYSIS_THREADS))) as source:
        for label in ("min", "opt", "max"):
            sizes = {name: getattr(dim, label) for name, dim in signature.dims.items()}
            inputs = shaped(signature.inputs, batches, sizes)
            try:
                expected = source.run(inputs)
            except ExecutionError as error:
                raise SourceError(f"the source model fails at {sizes}: {error}; check `dims`") from error
            answers = session.run(inputs)
            for name, value in expected.items():
                worst = max(worst, _difference(name, sizes, value, answers[name]))
    return worst


def _difference(name: str, sizes: Mapping[str, int], expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    at = f"output {name!r} at {dict(sizes)}"
    if expected.shape != got.shape:
        raise SourceError(f"{at}: the exported graph gives shape {list(got.shape)}, the source {list(expected.shape)}")
    if expected.dtype.kind not in "fc":
        if not np.array_equal(expected, got):
            raise SourceError(f"{at}: the exported graph answers otherwise than the source")
        return 0.0
    if not np.allclose(got, expected, rtol=PARITY_RTOL, atol=PARITY_ATOL, equal_nan=True):
        raise SourceError(
            f"{at}: the exported graph differs from the source by {np.nanmax(np.abs(got - expected)):.3g}, wanted at most"
            f" {PARITY_ATOL:g} + {PARITY_RTOL:g} of the value; does the model branch on its input, or use random numbers?"
        )
    return float(np.nanmax(np.abs(got - expected), initial=0.0))
