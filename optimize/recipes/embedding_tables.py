"""Embedding tables as 8-bit integers, one scale per row: a table then takes a quarter of the memory."""

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper, numpy_helper

from optimize.recipes import weights
from optimize.recipes.graph import Names, attribute

_LEAST_BYTES = 1 << 18  # below it a table is not worth two more nodes


def quantise_tables(graph: onnx.GraphProto) -> None:
    """Replace each large table of the main graph, and the Gather nodes that look rows up in it, in place."""
    found = {tensor.name: tensor for tensor in graph.initializer if _is_table(tensor)}
    names = Names(graph)
    quantised: dict[str, tuple[str, str]] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        table = found.get(node.input[0]) if node.op_type == "Gather" and attribute(node, "axis", 0) == 0 else None
        if table is None:
            nodes.append(node)
            continue
        if table.name not in quantised:
            quantised[table.name] = _quantised(graph, table, names)
        nodes.extend(_lookup(node, *quantised[table.name], names))
    del graph.node[:]
    graph.node.extend(nodes)


def _is_table(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.ByteSize() >= _LEAST_BYTES


def _quantised(graph: onnx.GraphProto, table: onnx.TensorProto, names: Names) -> tuple[str, str]:
    quantised = weights.per_channel(numpy_helper.to_array(table), 0)
    values, scale = names.fresh(f"{table.name}_quantized"), names.fresh(f"{table.name}_scale")
    graph.initializer.append(numpy_helper.from_array(quantised.values, values))
    graph.initializer.append(numpy_helper.from_array(quantised.scale[:, None], scale))
    return values, scale


def _lookup(node: onnx.NodeProto, values: str, scale: str, names: Names) -> Iterator[onnx.NodeProto]:
    rows = node.input[1]
    result = node.output[0]
    integers, real, steps = (names.fresh(f"{result}_{part}") for part in ("quantized", "unscaled", "scale"))
    yield helper.make_node("Gather", [values, rows], [integers], name=names.fresh(f"{result}_rows"), axis=0)
    yield helper.make_node("Gather", [scale, rows], [steps], name=names.fresh(f"{result}_steps"), axis=0)
    yield helper.make_node("Cast", [integers], [real], name=names.fresh(f"{result}_cast"), to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [real, steps], [result], name=names.fresh(f"{result}_scaled"))
