import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimize.recipes import folding, int8_dynamic, int8_static, onnx_files
from tests.optimize.recipes.models import batches, operators, run, save, weight


def positive(name: str, size: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.linspace(0.5, 2, size, dtype=np.float32), name)


def network(path, outputs: dict):
    return save(
        path,
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "gain", "shift", "mean", "variance"], ["n"], epsilon=1e-3),
            helper.make_node("Relu", ["n"], ["y"]),
        ],
        {"x": ["batch", 3, 8, 8]},
        outputs,
        [
            weight("k", 6, 3, 3, 3),
            positive("gain", 6),
            weight("shift", 6),
            weight("mean", 6, seed=1),
            positive("variance", 6),
        ],
    )


def test_batch_normalisation_becomes_part_of_the_convolution(tmp_path):
    source = network(tmp_path / "m.onnx", {"y": ["batch", 6, 6, 6]})
    model = onnx_files.read(source)
    folding.fold(model)
    path, *_ = onnx_files.write(model, tmp_path / "folded.onnx")
    assert operators(path) == ["Conv", "Relu"]
    given = batches((3, 8, 8))
    np.testing.assert_allclose(run(path, given[0])[0], run(source, given[0])[0], rtol=1e-4, atol=1e-5)
    built = int8_static.build(source, tmp_path / "out", given)
    assert "QLinearConv" in operators(built.files[0], optimised=True)


def test_a_convolution_that_others_read_keeps_its_values(tmp_path):
    source = network(tmp_path / "m.onnx", {"y": ["batch", 6, 6, 6], "c": ["batch", 6, 6, 6]})
    model = onnx_files.read(source)
    folding.fold(model)
    assert [node.op_type for node in model.graph.node] == ["Conv", "BatchNormalization", "Relu"]


def test_a_weight_behind_a_transpose_is_quantised(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Identity", ["w"], ["shared"]),
            helper.make_node("Transpose", ["shared"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "turned"], ["y"]),
        ],
        {"x": ["batch", 8]},
        {"y": ["batch", 5]},
        [weight("w", 5, 8)],
    )
    given = batches((8,))[0]
    built = int8_dynamic.build(source, tmp_path / "out")
    assert built.changed == 1
    assert "Transpose" not in operators(built.files[0])
    wanted = run(source, given)[0]
    assert np.abs(run(built.files[0], given)[0] - wanted).max() <= 0.02 * np.abs(wanted).max()
