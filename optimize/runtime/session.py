"""One open model: the only code that opens an artefact, for measuring and for serving."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import onnxruntime as ort

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, ExecutionError, InputError, first_line
from optimize.manifest import SessionOptions, Signature, TensorSpec

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ORT_ERRORS_ONLY = 3


class Session(Protocol):
    """Anything that answers named arrays with named arrays."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one batch.

        Raises:
            ExecutionError: The model failed on it.
        """


class OnnxSession:
    """An ONNX model in onnxruntime. Thread-safe: several threads may call :meth:`run` at once."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        provider = _PROVIDERS.get(options.target)
        if provider is None:
            raise ArtifactError(f"{path.name}: target {options.target!r} does not run an ONNX file; wanted cpu or cuda")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ORT_ERRORS_ONLY
        # Spinning threads take the cores of the server's own work between calls.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(path), settings, providers=[provider], disabled_optimizers=list(options.disabled_optimizers)
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen unrelated classes for a bad file
            raise ArtifactError(f"{path.name}: onnxruntime cannot open it: {first_line(error)}") from None
        actual = self._session.get_providers()[0]
        if actual != provider:
            raise ArtifactError(f"{path.name}: wanted provider {provider}, but onnxruntime fell back to {actual}")
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._session

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """Answer one batch: arrays by input name to arrays by output name (all outputs, or those asked for).

        Raises:
            ExecutionError: The model failed on it.
        """
        names = self._outputs if outputs is None else list(outputs)
        try:
            answers = self._session.run(names, dict(inputs))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes for a failed run
            raise ExecutionError(first_line(error)) from error
        return dict(zip(names, answers, strict=True))


@contextmanager
def instances(path: Path, options: SessionOptions, count: int) -> Iterator[list[OnnxSession]]:
    """`count` sessions that run at once.

    With one thread each they are one session, which may be called from several threads: its weights are then in memory once. With
    more, each has its own pool of threads.
    """
    with ExitStack() as stack:
        if options.threads == 1:
            yield [stack.enter_context(OnnxSession(path, options))] * count
        else:
            yield [stack.enter_context(OnnxSession(path, options)) for _ in range(count)]


_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def _spec(node: Any) -> TensorSpec:
    shape = tuple(
        axis if isinstance(axis, int) and axis >= 0 else axis or f"{node.name}_{position}"
        for position, axis in enumerate(node.shape)
    )
    if node.type not in _DTYPES:
        raise ArtifactError(f"{node.name}: has type {node.type}; wanted a tensor of numbers, booleans or strings")
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> int:
    """Check one request against the signature and return its rows (1 where no input has a batch axis).

    Raises:
        InputError: A name, dtype, rank, fixed axis or declared range does not fit, or two inputs disagree on a dimension.
    """
    wanted = {spec.name: spec for spec in signature.inputs}
    for name in inputs.keys() - wanted.keys():
        raise InputError(f"input {name!r} is not one of the model's; wanted {', '.join(wanted)}")
    sizes: dict[str, tuple[str, int]] = {}
    for name, spec in wanted.items():
        if name not in inputs:
            raise InputError(f"input {name!r} is missing; wanted {', '.join(wanted)}")
        array = inputs[name]
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(f"input {name!r} has dtype {array.dtype}; wanted {spec.dtype}")
        _check_shape(signature, spec, array.shape, sizes)
    return sizes["batch"][1] if "batch" in sizes else 1


def _check_shape(
    signature: Signature, spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, tuple[str, int]]
) -> None:
    if len(shape) != len(spec.shape):
        raise _misfit(spec, shape, f"rank {len(shape)} where rank {len(spec.shape)} is wanted")
    for axis, (size, declared) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(declared, int):
            if size != declared:
                raise _misfit(spec, shape, f"axis {axis} must be {declared}")
            continue
        dim = signature.dims.get(declared)
        if dim is not None and not dim.min <= size <= dim.max:
            raise _misfit(spec, shape, f"{declared} is {size}, its range is {dim.min} to {dim.max}")
        first, seen = sizes.setdefault(declared, (spec.name, size))
        if seen != size:
            raise _misfit(spec, shape, f"{declared} is {size}, but {seen} in input {first!r}")


def _misfit(spec: TensorSpec, shape: tuple[int, ...], reason: str) -> InputError:
    return InputError(f"input {spec.name!r} has shape {list(shape)}; wanted {list(spec.shape)}: {reason}")
