"""The outputs of a graph and their named axes, found by running it."""

from collections.abc import Mapping

from optimize.arrays import Arrays
from optimize.budgets import Dim, ModelBudgets
from optimize.errors import ExecutionError, SourceError
from optimize.manifest import TensorSpec
from optimize.runtime.session import OnnxSession
from optimize.source.samples import Batch
from optimize.source.shaping import shaped

_OTHER_ROWS = 4
"""Other real rows that a graph is run on, since the length of an output may depend on the input's values."""


def output_specs(
    budgets: ModelBudgets,
    session: OnnxSession,
    inputs: tuple[TensorSpec, ...],
    dims: Mapping[str, Dim],
    batches: list[Batch],
) -> tuple[TensorSpec, ...]:
    """The outputs with named axes: as declared, or else found by running the graph at three sizes of each dimension.

    Raises:
        SourceError: A declared output does not exist, or the graph fails at some size.
    """
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
        tried = sorted({size for size in (dim.min, dim.min + 1, dim.min + 2) if size <= dim.max} | {dim.min})
        shapes[name] = [_shapes(session, shaped(inputs, batches, base | {name: size})) for size in tried]
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
