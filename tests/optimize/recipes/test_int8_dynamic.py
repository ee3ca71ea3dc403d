import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import int8_dynamic
from tests.optimize.recipes.models import operators, run, save, weight

RNG = np.random.default_rng(5)


def compare(source, built, inputs, tolerance: float) -> None:
    """The quantised answers differ from fp32's by less than `tolerance` of fp32's own spread."""
    for wanted, got in zip(run(source, inputs), run(built.files[0], inputs), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def test_matmul_and_gemm_are_quantised_per_channel_with_two_dynamic_axes(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("ReduceMean", ["r", "axes"], ["mean"], keepdims=0),
            helper.make_node("Gemm", ["mean", "w2", "b2"], ["y"], transB=1, alpha=0.5, beta=2.0),
        ],
        {"x": ["batch", "sequence", 16]},
        {"y": ["batch", 4], "r": ["batch", "sequence", 32]},
        [
            weight("w1", 16, 32),
            weight("w2", 4, 32, seed=1),
            weight("b2", 4, seed=2),
            numpy_helper.from_array(np.array([1]), "axes"),
        ],
    )
    built = int8_dynamic.build(source, tmp_path / "out")
    assert built.changed == 2
    assert built.notes == ()
    weights = {tensor.name: tensor for tensor in onnx.load(built.files[0]).graph.initializer}
    assert [weights[name].dims for name in ("w1_scale", "w2_scale")] == [[32], [4]]
    assert not {"w1", "w2"} & weights.keys()
    assert "DynamicQuantizeMatMul" in operators(built.files[0], optimised=True)
    for rows, length in ((1, 1), (3, 7)):
        compare(source, built, {"x": RNG.normal(size=(rows, length, 16)).astype(np.float32)}, 0.02)


def test_a_value_that_two_nodes_read_is_quantised_once(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("MatMul", ["x", "v"], ["z"])],
        {"x": ["batch", 8]},
        {"y": ["batch", 8], "z": ["batch", 4]},
        [weight("w", 8, 8), weight("v", 8, 4)],
    )
    built = int8_dynamic.build(source, tmp_path / "out")
    assert operators(built.files[0]).count("DynamicQuantizeLinear") == 1
    compare(source, built, {"x": RNG.normal(size=(3, 8)).astype(np.float32)}, 0.02)


def test_an_embedding_table_takes_a_quarter_of_its_size(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ],
        {"ids": ["batch", "sequence"]},
        {"y": ["batch", "sequence", 4]},
        [weight("table", 4000, 32), weight("w", 32, 4)],
        types={"ids": TensorProto.INT64},
    )
    built = int8_dynamic.build(source, tmp_path / "out")
    assert built.changed == 2
    assert built.files[0].stat().st_size < 0.35 * source.stat().st_size
    assert onnx.load(built.files[0]).graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    compare(source, built, {"ids": RNG.integers(0, 4000, (2, 5))}, 0.02)


def test_lstm_is_quantised_and_a_conv_is_reported(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1]),
            helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
            helper.make_node("LSTM", ["t", "w", "r", "b"], ["", "last"], hidden_size=16),
            helper.make_node("Squeeze", ["last", "zero"], ["y"]),
        ],
        {"x": ["batch", 8, "time"]},
        {"y": ["batch", 16]},
        [
            weight("k", 8, 8, 3, scale=0.2),
            weight("w", 1, 64, 8, scale=0.2),
            weight("r", 1, 64, 16, scale=0.2),
            weight("b", 1, 128, scale=0.1),
            numpy_helper.from_array(np.array([0]), "zero"),
        ],
    )
    built = int8_dynamic.build(source, tmp_path / "out")
    assert built.changed == 1
    assert built.notes == ("1 Conv stay in fp32, which is faster on a CPU",)
    assert "DynamicQuantizeLSTM" in operators(built.files[0])
    compare(source, built, {"x": RNG.normal(size=(3, 8, 9)).astype(np.float32)}, 0.05)


def test_weights_in_if_bodies_are_reported(tmp_path):
    def branch(name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 4])
        return helper.make_graph([helper.make_node("MatMul", ["x", "w"], [f"{name}_y"])], name, [], [value])

    choose = helper.make_node("If", ["flag"], ["h"], then_branch=branch("a"), else_branch=branch("b"))
    arguments = (
        {"flag": [], "x": ["batch", 4]},
        {"y": ["batch", 4]},
        [weight("w", 4, 4)],
    )
    types = {"flag": TensorProto.BOOL}
    inputs = {"flag": np.array(True), "x": RNG.normal(size=(3, 4)).astype(np.float32)}
    mixed = save(
        tmp_path / "mixed.onnx", [choose, helper.make_node("MatMul", ["h", "w"], ["y"])], *arguments, types=types
    )
    built = int8_dynamic.build(mixed, tmp_path / "out")
    assert built.changed == 1
    assert built.notes == ("2 MatMul inside If, Loop or Scan bodies stay in fp32",)
    compare(mixed, built, inputs, 0.02)
    only = save(tmp_path / "only.onnx", [choose, helper.make_node("Relu", ["h"], ["y"])], *arguments, types=types)
    with pytest.raises(CandidateError, match="nothing was quantised: MatMul are only inside If"):
        int8_dynamic.build(only, tmp_path / "out")


def test_a_tree_ensemble_has_no_precision(tmp_path):
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
    )
    source = save(tmp_path / "m.onnx", [tree], {"x": ["batch", 3]}, {"y": ["batch", 1]}, domains=("ai.onnx.ml",))
    assert run(source, {"x": np.zeros((2, 3), np.float32)})[0].tolist() == [[1.0], [1.0]]
    with pytest.raises(CandidateError, match="precision does not apply to TreeEnsembleRegressor"):
        int8_dynamic.build(source, tmp_path / "out")


def test_an_old_opset_is_raised(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 8]},
        {"y": ["batch", 8]},
        [weight("w", 8, 8)],
        opset=9,
    )
    built = int8_dynamic.build(source, tmp_path / "out")
    assert onnx.load(built.files[0]).opset_import[0].version == 11
    compare(source, built, {"x": RNG.normal(size=(3, 8)).astype(np.float32)}, 0.02)
