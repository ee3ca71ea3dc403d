import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from optimize.errors import SourceError
from optimize.recipes import graph, int8_dynamic
from optimize.recipes.element_types import types_of
from tests.optimize.recipes.models import FLOAT, run, save, weight

X = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)


def test_weights_in_constant_nodes_become_initialisers(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Constant", [], ["w"], value=weight("", 4, 3)),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
    )
    assert graph.prepare(source, tmp_path / "p.onnx") == ()
    prepared = onnx.load(tmp_path / "p.onnx").graph
    assert [node.op_type for node in prepared.node] == ["MatMul"]
    assert [tensor.name for tensor in prepared.initializer] == ["w"]
    np.testing.assert_array_equal(run(source, {"x": X})[0], run(tmp_path / "p.onnx", {"x": X})[0])


def test_an_inner_value_named_as_an_output_gets_a_name_of_its_own(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Add", ["x", "x"], ["add"]),
            helper.make_node("Mul", ["add", "add"], ["square"]),
            helper.make_node("Sub", ["square", "add"], ["add"]),
        ],
        {"x": ["batch", 4]},
        {"add": ["batch", 4]},
    )
    with pytest.raises(Exception, match="Duplicate definition"):
        run(source, {"x": X})
    graph.prepare(source, tmp_path / "p.onnx")
    np.testing.assert_allclose(run(tmp_path / "p.onnx", {"x": X})[0], (2 * X) ** 2 - 2 * X, rtol=1e-6, atol=1e-6)


def test_a_name_that_could_mean_either_value_is_refused(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Neg", ["x"], ["y"]),
            helper.make_node("Abs", ["y"], ["y"]),
            helper.make_node("Add", ["y", "y"], ["z"]),
        ],
        {"x": ["batch", 4]},
        {"y": ["batch", 4], "z": ["batch", 4]},
    )
    with pytest.raises(SourceError, match="'y' is defined more than once"):
        graph.prepare(source, tmp_path / "p.onnx")


def test_every_value_has_a_type_even_where_onnx_cannot_infer_it(tmp_path):
    # ONNX has no schema for the contrib operator, so that its own inference stops there.
    gelu = helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft")
    source = save(
        tmp_path / "m.onnx",
        [gelu, helper.make_node("MatMul", ["h", "w"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
        [weight("w", 4, 3)],
        domains=("com.microsoft",),
    )
    graph.prepare(source, tmp_path / "p.onnx")
    found = types_of(onnx.load(tmp_path / "p.onnx").graph)
    assert {"h", "hidden"} <= found.keys()
    assert found["hidden"] == FLOAT


def test_a_custom_operator_is_refused_by_name(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Frobnicate", ["x"], ["h"], domain="acme"), helper.make_node("Relu", ["h"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        domains=("acme",),
    )
    with pytest.raises(SourceError, match="Frobnicate"):
        graph.prepare(source, tmp_path / "p.onnx")


def test_a_file_that_is_not_onnx_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_text("not a model")
    with pytest.raises(SourceError, match="not an ONNX file"):
        graph.prepare(tmp_path / "m.onnx", tmp_path / "p.onnx")


def test_a_local_function_is_written_out(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Layer", ["x", "w"], ["y"], domain="local")],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
        [weight("w", 4, 3)],
        domains=("local",),
    )
    model = onnx.load(source)
    body = [helper.make_node("MatMul", ["a", "b"], ["h"]), helper.make_node("Relu", ["h"], ["c"])]
    model.functions.append(
        helper.make_function("local", "Layer", ["a", "b"], ["c"], body, [helper.make_opsetid("", 18)])
    )
    onnx.save(model, source)
    graph.prepare(source, tmp_path / "p.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "p.onnx").graph.node] == ["MatMul", "Relu"]
    np.testing.assert_array_equal(run(source, {"x": X})[0], run(tmp_path / "p.onnx", {"x": X})[0])


def test_quantisable_nodes_in_a_loop_are_reported(tmp_path):
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, ["batch", 4]),
        ],
    )
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)],
        {"times": [], "x": ["batch", 4]},
        {"y": ["batch", 4]},
        [weight("w", 4, 4)],
        types={"times": TensorProto.INT64},
    )
    assert graph.prepare(source, tmp_path / "p.onnx") == ("1 MatMul inside If, Loop or Scan bodies stay in fp32",)
    inputs = {"times": np.array(3), "x": X}
    np.testing.assert_array_equal(run(source, inputs)[0], run(tmp_path / "p.onnx", inputs)[0])


def test_weights_that_are_also_inputs_become_constants(tmp_path):
    # ONNX before version 4 of its format listed every weight among the inputs.
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 4], "w": [4, 3]},
        {"y": ["batch", 3]},
        [weight("w", 4, 3)],
        opset=8,
    )
    model = onnx.load(source)
    model.ir_version = 3
    onnx.save(model, source)
    graph.prepare(source, tmp_path / "p.onnx")
    prepared = onnx.load(tmp_path / "p.onnx")
    assert [value.name for value in prepared.graph.input] == ["x"]
    assert prepared.ir_version >= 4
    np.testing.assert_array_equal(run(source, {"x": X})[0], run(tmp_path / "p.onnx", {"x": X})[0])


def test_failing_shape_inference_stops_nothing(tmp_path):
    # The file does not declare the operators it uses: onnxruntime runs it, shape inference gives up.
    gelu = helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft")
    source = save(
        tmp_path / "m.onnx",
        [gelu, helper.make_node("MatMul", ["h", "w"], ["hidden"]), helper.make_node("Relu", ["hidden"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
        [weight("w", 4, 3)],
    )
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(onnx.load(source))
    built = int8_dynamic.build(source, tmp_path / "out")
    assert built.changed == 1
    wanted = run(source, {"x": X})[0]
    assert np.abs(run(built.files[0], {"x": X})[0] - wanted).max() < 0.05 * np.abs(wanted).max()
