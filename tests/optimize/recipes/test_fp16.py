import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import fp16
from optimize.recipes.element_types import types_of
from tests.optimize.recipes.models import batches, run, save, weight

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
RELATIVE = 4e-3  # four steps of FP16, whose step is 2**-10


def number(name: str, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.float32(value), name)


def assert_close(source, built, inputs, tolerance: float = RELATIVE) -> None:
    for wanted, got in zip(run(source, inputs), run(built.files[0], inputs), strict=True):
        assert got.dtype == wanted.dtype
        assert np.isfinite(got).all()
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def element_types(built) -> dict[str, int]:
    return types_of(onnx.load(built.files[0]).graph)


def test_a_network_computes_in_fp16_between_fp32_inputs_and_outputs(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Conv", ["x", "k", "b"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "b", "b", "b", "ones"], ["n"]),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("Gemm", ["f", "w"], ["y"]),
            helper.make_node("Softmax", ["y"], ["z"]),
        ],
        {"x": ["batch", 3, 6, 6]},
        {"y": ["batch", 4], "z": ["batch", 4]},
        [
            weight("k", 8, 3, 3, 3, scale=0.2),
            weight("b", 8),
            numpy_helper.from_array(np.ones(8, np.float32), "ones"),
            weight("w", 128, 4, scale=0.1),
        ],
    )
    built = fp16.build(source, tmp_path / "out", batches((3, 6, 6)))
    assert built.changed == 6
    assert built.notes == ()
    graph = onnx.load(built.files[0]).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {SINGLE}
    assert {tensor.data_type for tensor in graph.initializer} == {HALF}
    assert sum(node.op_type == "Cast" for node in graph.node) == 3  # one in, two out
    assert_close(source, built, batches((3, 6, 6))[0])


def test_values_beyond_65504_stay_in_fp32_from_node_to_node(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Mul", ["h", "thousand"], ["large"]),
            helper.make_node("Mul", ["large", "thousand"], ["larger"]),
            helper.make_node("Transpose", ["larger"], ["turned"], perm=[1, 0]),
            helper.make_node("ReduceMean", ["turned"], ["mean"], keepdims=1),
            helper.make_node("Div", ["turned", "million"], ["small"]),
            helper.make_node("Tanh", ["small"], ["y"]),
            helper.make_node("Sigmoid", ["turned"], ["gate"]),
        ],
        {"x": ["batch", 4]},
        {"y": [4, "batch"], "mean": [1, 1], "gate": [4, "batch"]},
        [weight("w", 4, 4), number("thousand", 1e3), number("million", 1e6)],
    )
    built = fp16.build(source, tmp_path / "out", batches((4,)))
    found = element_types(built)
    assert {name: found[name] for name in ("h", "large", "larger", "turned", "small", "gate")} == {
        "h": HALF, "large": HALF, "larger": SINGLE, "turned": SINGLE, "small": SINGLE, "gate": SINGLE,
    }  # fmt: skip
    assert built.changed == 3
    assert built.notes == ("5 nodes stay in fp32, since their values go beyond 65504",)
    assert_close(source, built, batches((4,))[0])


def test_a_large_input_is_never_rounded_to_infinity(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "tiny"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        [weight("w", 4, 4), number("tiny", 1e-3)],
    )
    given = [{"x": batch["x"] * 1e5} for batch in batches((4,))]
    built = fp16.build(source, tmp_path / "out", given)
    assert built.changed == 1
    assert_close(source, built, given[0])


def test_large_weights_tell_without_samples(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Div", ["h", "huge"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        [weight("w", 4, 4), number("huge", 1e5)],
    )
    built = fp16.build(source, tmp_path / "out")
    assert built.changed == 1
    assert_close(source, built, batches((4,))[0])


def test_minus_infinity_of_a_mask_is_no_overflow(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("Where", ["keep", "scores", "never"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["y"]),
        ],
        {"x": ["batch", 4], "keep": ["batch", 6]},
        {"y": ["batch", 6]},
        [weight("w", 4, 6), number("never", -np.inf)],
        types={"keep": TensorProto.BOOL},
    )
    given = [{**batch, "keep": np.arange(96).reshape(16, 6) % 5 > 0} for batch in batches((4,))]
    built = fp16.build(source, tmp_path / "out", given)
    assert built.changed == 3
    assert_close(source, built, given[0])


def test_a_finite_mask_beyond_fp16_keeps_its_neighbours_in_fp32(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("Add", ["scores", "mask"], ["masked"]),
            helper.make_node("Softmax", ["masked"], ["y"]),
        ],
        {"x": ["batch", 4], "mask": ["batch", 6]},
        {"y": ["batch", 6]},
        [weight("w", 4, 6)],
    )
    lowest = np.finfo(np.float32).min
    given = [{**batch, "mask": np.full((16, 6), lowest, np.float32)} for batch in batches((4,))]
    built = fp16.build(source, tmp_path / "out", given)
    assert built.changed == 1
    # All scores are masked: in FP16 each would be minus infinity, and Softmax NaN.
    assert_close(source, built, given[0])


def test_an_epsilon_that_vanishes_in_fp16_is_kept(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Add", ["h", "epsilon"], ["safe"]),
            helper.make_node("Div", ["h", "safe"], ["y"]),
        ],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        [number("epsilon", 1e-9), numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")],
    )
    built = fp16.build(source, tmp_path / "out")
    assert element_types(built)["safe"] == SINGLE


def test_integers_and_operands_that_are_always_fp32_are_not_touched(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Cast", ["ids"], ["real"], to=SINGLE),
            helper.make_node("Unsqueeze", ["real", "last"], ["column"]),
            helper.make_node("Add", ["rows", "column"], ["sum"]),
            helper.make_node("Unsqueeze", ["sum", "first"], ["image"]),
            helper.make_node("Resize", ["image", "", "scales"], ["wide"], mode="linear"),
            helper.make_node("Mul", ["wide", "gain"], ["y"]),
        ],
        {"ids": ["batch", "sequence"], "gain": []},
        {"y": [1, "batch", "sequence", 8], "real": ["batch", "sequence"]},
        [
            weight("table", 50, 4),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([0]), "first"),
            numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales"),
        ],
        types={"ids": TensorProto.INT64},
    )
    given = [{"ids": np.arange(120).reshape(10, 12) % 50, "gain": np.array(2, np.float32)}]
    built = fp16.build(source, tmp_path / "out", given)
    found = element_types(built)
    assert found["ids"] == TensorProto.INT64
    assert found["scales"] == SINGLE
    assert found["wide"] == HALF
    assert_close(source, built, given[0])


def test_bodies_stay_in_fp32_and_read_fp32(tmp_path):
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"{name}_y", SINGLE, ["batch", 4])
        return helper.make_graph([helper.make_node(op_type, ["h", "w"], [f"{name}_y"])], name, [], [value])

    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("If", ["flag"], ["c"], then_branch=branch("a", "MatMul"), else_branch=branch("b", "Add")),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
        ],
        {"flag": [], "x": [4, 4]},
        {"y": [4, 4]},
        [weight("w", 4, 4)],
        types={"flag": TensorProto.BOOL},
    )
    built = fp16.build(source, tmp_path / "out")
    assert built.changed == 2
    assert built.notes == ("1 MatMul inside If, Loop or Scan bodies stay in fp32",)
    for flag in (True, False):
        assert_close(source, built, {"flag": np.array(flag), "x": batches((4,))[0]["x"][:4]})


def test_the_state_of_a_loop_stays_in_fp32(tmp_path):
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "h"], ["next"]), helper.make_node("Identity", ["go"], ["still"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", SINGLE, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", SINGLE, ["batch", 4]),
        ],
    )
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Loop", ["times", "", "h"], ["last"], body=body),
            helper.make_node("MatMul", ["last", "w"], ["y"]),
        ],
        {"times": [], "x": ["batch", 4]},
        {"y": ["batch", 4]},
        [weight("w", 4, 4)],
        types={"times": TensorProto.INT64},
    )
    built = fp16.build(source, tmp_path / "out")
    assert built.changed == 2
    assert_close(source, built, {"times": np.array(3), "x": batches((4,))[0]["x"]})


def test_a_tree_ensemble_and_a_graph_of_integers_are_refused(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": ["batch"]},
        {"y": ["batch"]},
        types={"x": TensorProto.INT64, "y": TensorProto.INT64},
    )
    with pytest.raises(CandidateError, match="nothing was converted to fp16"):
        fp16.build(source, tmp_path / "out")
