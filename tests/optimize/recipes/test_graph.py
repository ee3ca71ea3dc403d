import numpy as np
import onnx
import pytest
from onnx import helper

from optimize.errors import SourceError
from optimize.recipes import graph, types
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
            helper.make_node("Relu", ["square"], ["add"]),
        ],
        {"x": ["batch", 4]},
        {"add": ["batch", 4]},
    )
    with pytest.raises(Exception, match="Duplicate definition"):
        run(source, {"x": X})
    graph.prepare(source, tmp_path / "p.onnx")
    np.testing.assert_allclose(run(tmp_path / "p.onnx", {"x": X})[0], (2 * X) ** 2, rtol=1e-6)


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
    found = types.of(onnx.load(tmp_path / "p.onnx").graph)
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
