"""Why a recipe found nothing to change, in one sentence."""

import onnx

from optimize.recipes.graph import ANCHORS, walk

_TREES = ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")


def nothing_quantised(graph: onnx.GraphProto) -> str:
    """Why no node of the graph computes in 8 bits."""
    return f"nothing was quantised: {_cause(graph, 'to quantise')}"


def nothing_converted(graph: onnx.GraphProto) -> str:
    """Why no node of the graph computes in fp16."""
    return f"nothing was converted to fp16: {_cause(graph, 'to convert')}"


def _cause_in_anchors(graph: onnx.GraphProto, anchors: str) -> str:
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = {constants[node.input[1]] for node in graph.node if node.op_type in ANCHORS and node.input[1] in constants}
    if found and onnx.TensorProto.FLOAT not in found:
        names = ", ".join(sorted(onnx.TensorProto.DataType.Name(element).lower() for element in found))
        return f"the weights of {anchors} are {names}, wanted float32; export the model in fp32"
    return f"{anchors} have no constant weights, or read values that are not finite"


def _cause(graph: onnx.GraphProto, purpose: str) -> str:
    outside = {node.op_type for node in graph.node}
    inside = {node.op_type for node in walk(graph)} - outside
    trees = sorted(outside.intersection(_TREES))
    if trees:
        return f"precision does not apply to {trees[0]}, which compares inputs with thresholds and multiplies nothing"
    if inside & ANCHORS:
        return f"{', '.join(sorted(inside & ANCHORS))} are only inside If, Loop or Scan bodies"
    if outside & ANCHORS:
        return _cause_in_anchors(graph, ", ".join(sorted(outside & ANCHORS)))
    return f"the graph has no Conv, Gemm or MatMul {purpose}"
