"""Which inputs and outputs of a node may change from FP32 to FP16, by ONNX's schemas."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import onnx
from onnx import TensorProto, defs

_HALF, _SINGLE = "tensor(float16)", "tensor(float)"


class Positions(NamedTuple):
    """Positions among a node's inputs and outputs."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def positions(node: onnx.NodeProto, known: Mapping[str, int], opset: int) -> Positions | None:
    """The FP32 inputs and outputs that become FP16 when the node computes in FP16; None if it cannot.

    `known` holds the element type by name. An operand that the schema fixes to FP32, such as the scales of Resize, stays FP32.
    """
    try:
        schema = defs.get_schema(node.op_type, opset, "")
    except defs.SchemaError:
        return None
    halving = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if _HALF in constraint.allowed_type_strs and _SINGLE in constraint.allowed_type_strs
    }
    inputs = _variables(node.input, schema.inputs, known)
    outputs = _variables(node.output, schema.outputs, known)
    if inputs is None or outputs is None:
        return None
    bound = set(inputs.values()) & halving
    # An output whose type no input decides has it from an attribute, which does not change.
    if set(inputs.values()) - halving - {_SINGLE} or set(outputs.values()) - bound - {_SINGLE}:
        return None
    return Positions(
        tuple(position for position, variable in inputs.items() if variable in bound),
        tuple(position for position, variable in outputs.items() if variable in bound),
    )


def _variables(
    names: Sequence[str], formals: Sequence[defs.OpSchema.FormalParameter], known: Mapping[str, int]
) -> dict[int, str] | None:
    """The schema's type variable at each FP32 position; None if some value is not a tensor, or its type is unknown."""
    found = {}
    for position, name in enumerate(names):
        if not name:
            continue
        if name not in known:
            return None
        if known[name] == TensorProto.FLOAT:
            found[position] = formals[min(position, len(formals) - 1)].type_str
    return found
