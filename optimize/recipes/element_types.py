"""Find the element type of every value in a graph.

A quantiser leaves a value of unknown type alone, and symbolic shape inference fails on many exported graphs. ONNX's own inference is
tried first. onnxruntime, which must know every type before it can run a graph, gives the rest.
"""

import onnx
import onnxruntime as ort
from onnx import TensorProto, shape_inference

from optimize.errors import SourceError
from optimize.recipes.onnxruntime_errors import onnxruntime_errors_as

_SILENT = 4
_LARGE_TENSOR_BYTES = 65536  # constants that shapes are computed from are smaller
_ELEMENT_TYPES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "double": TensorProto.DOUBLE,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    **{
        f"{sign}int{bits}": getattr(TensorProto, f"{sign}int{bits}".upper())
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def complete_types(model: onnx.ModelProto) -> None:
    """Record the type of every value of the main graph that has none yet.

    Raises:
        SourceError: onnxruntime cannot open the graph, for instance because of a custom operator.
    """
    if not _untyped(model.graph):
        return
    skeleton = _without_weights(model)
    try:
        inferred = shape_inference.infer_shapes(skeleton)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        pass  # onnxruntime gives every type then
    else:
        _take(model.graph, inferred.graph)
    missing = _untyped(model.graph)
    if missing:
        model.graph.value_info.extend(_types_in_onnxruntime(skeleton, missing))


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    """Element type by name of every tensor of the main graph whose type is recorded."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            found[value.name] = value.type.tensor_type.elem_type
    return found


def _untyped(graph: onnx.GraphProto) -> list[str]:
    typed = {value.name for value in (*graph.value_info, *graph.output) if value.HasField("type")}
    return [name for node in graph.node for name in node.output if name and name not in typed]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large weights are inputs: inference needs only their type and shape."""
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    graph = model.graph
    skeleton.graph.name = graph.name
    skeleton.graph.node.extend(graph.node)
    skeleton.graph.input.extend(graph.input)
    skeleton.graph.output.extend(graph.output)
    skeleton.graph.value_info.extend(graph.value_info)
    declared = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _LARGE_TENSOR_BYTES:
            skeleton.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            skeleton.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return skeleton


def _take(graph: onnx.GraphProto, inferred: onnx.GraphProto) -> None:
    missing = set(_untyped(graph))
    graph.value_info.extend(value for value in inferred.value_info if value.name in missing and value.HasField("type"))


def _types_in_onnxruntime(skeleton: onnx.ModelProto, missing: list[str]) -> list[onnx.ValueInfoProto]:
    outputs = {value.name for value in skeleton.graph.output}
    skeleton.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing if name not in outputs)
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    with onnxruntime_errors_as(SourceError, "onnxruntime cannot open the model"):
        session = ort.InferenceSession(skeleton.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    wanted = set(missing)
    return [
        onnx.helper.make_tensor_value_info(value.name, _ELEMENT_TYPES[element], None)
        for value in session.get_outputs()
        if value.name in wanted and (element := value.type.removeprefix("tensor(").removesuffix(")")) in _ELEMENT_TYPES
    ]
