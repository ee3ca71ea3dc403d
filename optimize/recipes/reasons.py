"""Say in one sentence why a recipe found nothing to change."""

import onnx

from optimize.recipes import graph as graphs

_TREES = ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")


def nothing_quantised(graph: onnx.GraphProto) -> str:
    """Why no node of the graph computes in 8 bits."""
    return f"nothing was quantised: {_cause(graph, 'to quantise')}"


def nothing_converted(graph: onnx.GraphProto) -> str:
    """Why no node of the graph computes in fp16."""
    return f"nothing was converted to fp16: {_cause(graph, 'to convert')}"


def _cause(graph: onnx.GraphProto, purpose: str) -> str:
    outside = {node.op_type for node in graph.node}
    inside = {node.op_type for node in graphs.walk(graph)} - outside
    trees = sorted(outside.intersection(_TREES))
    if trees:
        return f"precision does not apply to {trees[0]}, which compares inputs with thresholds and multiplies nothing"
    if inside & graphs.ANCHORS:
        return f"{', '.join(sorted(inside & graphs.ANCHORS))} stand only inside If, Loop or Scan bodies"
    if outside & graphs.ANCHORS:
        return f"{', '.join(sorted(outside & graphs.ANCHORS))} have no constant weights, or values that are not finite"
    return f"the graph has no Conv, Gemm or MatMul {purpose}"
