"""TensorRT engines from typed ONNX graphs: the graph states the precision, and the network is strongly typed.

Only calls that `tensorrt` 10 and 11 and `tensorrt-rtx` share are used. `tensorrt-rtx` builds on a machine without a GPU, for the
compute capabilities that it is given; `tensorrt` builds for the GPU of the machine.
"""

import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from optimize.errors import CandidateError
from optimize.manifest import Signature, TensorSpec
from optimize.recipes.recipe_result import RecipeResult

Library = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Library, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL: dict[Library, str] = {
    "tensorrt": "install NVIDIA's tensorrt for the machine's CUDA",
    "tensorrt-rtx": "pip install 'proveserve[rtx]'",
}


def build(
    source: Path,
    folder: Path,
    signature: Signature,
    *,
    library: Library = "tensorrt-rtx",
    compute_capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
) -> RecipeResult:
    """Build an engine from the graph at `source`, in the precisions that it states, for every shape within `signature.dims`.

    `compute_capabilities` such as "89" are the GPUs that one tensorrt-rtx engine can run on; by default the machine's GPU.
    `timing_cache` is a file that tensorrt reads and extends with its timings of the GPU; tensorrt-rtx times nothing.

    Raises:
        CandidateError: The library is missing, it cannot express the graph, or a dynamic dimension has no range.
    """
    trt = _imported(library)
    log = _logger(trt)
    builder = _made(log, library, lambda: trt.Builder(log))
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, log, source, library)
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network, signature))
    if library == "tensorrt-rtx":
        _target(trt, config, compute_capabilities)
    elif timing_cache is not None:
        load_timing_cache(config, timing_cache)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise CandidateError(f"{library} could not build an engine: {log.cause()}")
    if library == "tensorrt" and timing_cache is not None:
        save_timing_cache(config, timing_cache)
    return RecipeResult((_written(folder / "model.engine", engine),), count_reduced(trt, network))


def count_reduced(trt: Any, network: Any) -> int:
    """Layers of a typed network that compute in FP16, or on values dequantised from 8 bits."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    converting = {trt.LayerType.CAST, trt.LayerType.CONSTANT, trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE}
    quantised = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    return sum(layer.type not in converting and _is_reduced(trt, layer, quantised) for layer in layers)


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the builder the timings of earlier builds; a cache of another version or GPU counts as empty."""
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write the cache in one step, since several builds may share it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(config.get_timing_cache().serialize())
    temporary.replace(path)


def _imported(library: Library) -> Any:
    try:
        return importlib.import_module(_MODULES[library])
    except ImportError:
        raise CandidateError(f"{library} is not installed; {_INSTALL[library]}") from None


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base class is known only when a library is loaded
        """Keeps errors for the message, and prints nothing."""

        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(text.strip().splitlines()[0])

        def cause(self) -> str:
            return self._errors[0] if self._errors else "no cause was given"

    return Log()


def _made(log: Any, library: Library, make: Any) -> Any:
    try:
        return make()
    except (RuntimeError, TypeError):  # the binding gets a null pointer where there is no driver
        raise CandidateError(f"{library} cannot start: {log.cause()}") from None


def _strongly_typed(trt: Any) -> int:
    """The creation flag; a version whose networks are always strongly typed may have none."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, log: Any, source: Path, library: Library) -> None:
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(source)):
        error = parser.get_error(0) if parser.num_errors else None
        where = f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}" if error else log.cause()
        raise CandidateError(f"{library} cannot express the graph: {where}")


def _profile(builder: Any, network: Any, signature: Signature) -> Any:
    profile = builder.create_optimization_profile()
    specs = {spec.name: spec for spec in signature.inputs}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise CandidateError(
                f"input {tensor.name!r} decides the shape of other values, for which an engine has no range"
            )
        if any(size < 0 for size in tensor.shape):
            low, common, high = shapes(specs[tensor.name], signature)
            profile.set_shape(tensor.name, low, common, high)
    return profile


def shapes(spec: TensorSpec, signature: Signature) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The smallest, usual and largest shape of an input.

    Raises:
        CandidateError: A dynamic dimension has no range.
    """
    for axis in spec.shape:
        if isinstance(axis, str) and axis not in signature.dims:
            raise CandidateError(
                f"dimension {axis!r} of input {spec.name!r} has no range; give it min, opt and max in `dims`"
            )
    ranges = [(axis, axis, axis) if isinstance(axis, int) else _range(axis, signature) for axis in spec.shape]
    low, common, high = zip(*ranges, strict=True)
    return low, common, high


def _range(axis: str, signature: Signature) -> tuple[int, int, int]:
    dim = signature.dims[axis]
    return dim.min, dim.opt, dim.max


def _target(trt: Any, config: Any, compute_capabilities: Sequence[str]) -> None:
    known = {
        name.removeprefix("SM"): member for name, member in _members(trt.ComputeCapability) if name.startswith("SM")
    }
    for capability in compute_capabilities:
        if capability not in known:
            raise CandidateError(
                f"tensorrt-rtx has no compute capability {capability!r}; wanted one of {', '.join(known)}"
            )
    if compute_capabilities:
        config.num_compute_capabilities = len(compute_capabilities)
        for index, capability in enumerate(compute_capabilities):
            if not config.set_compute_capability(known[capability], index):
                raise CandidateError(f"tensorrt-rtx does not build for compute capability {capability}")


def _members(enumeration: Any) -> Iterable[tuple[str, Any]]:
    return sorted(enumeration.__members__.items(), key=lambda item: int(item[1]))


def _is_reduced(trt: Any, layer: Any, quantised: set[str]) -> bool:
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    half = any(tensor is not None and tensor.dtype == trt.DataType.HALF for tensor in outputs)
    return half or any(tensor is not None and tensor.name in quantised for tensor in inputs)


def _written(path: Path, engine: Any) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(engine)
    except OSError as error:
        raise CandidateError(f"{path.name}: cannot be written: {error.strerror}") from None
    return path
