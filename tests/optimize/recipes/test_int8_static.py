from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError
from optimize.recipes import int8_static
from tests.optimize.recipes.models import batches, operators, run, save, weight


@pytest.fixture
def residual(tmp_path) -> Path:
    """A small residual network: strided convolution, residual sum, ReLU6, pooling, two layers, two outputs."""
    return save(
        tmp_path / "residual.onnx",
        [
            helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("Conv", ["r1", "k2"], ["c2"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["c2", "r1"], ["sum"]),
            helper.make_node("Clip", ["sum", "zero", "six"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["features"]),
            helper.make_node("Gemm", ["features", "w1", "b2"], ["hidden"], transB=1),
            helper.make_node("Relu", ["hidden"], ["r3"]),
            helper.make_node("MatMul", ["r3", "w2"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["share"]),
        ],
        {"x": ["batch", 3, 16, 16]},
        {"logits": ["batch", 5], "share": ["batch", 5]},
        [
            weight("k1", 16, 3, 3, 3, scale=0.3),
            weight("b1", 16, seed=1),
            weight("k2", 16, 16, 3, 3, seed=2, scale=0.1),
            weight("w1", 24, 16, seed=3),
            weight("b2", 24, seed=4),
            weight("w2", 24, 5, seed=5),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ],
    )


def assert_close(source: Path, built: Path, inputs: dict, tolerance: float) -> None:
    for wanted, got in zip(run(source, inputs), run(built, inputs), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(path).graph


def constants_read_by(graph: onnx.GraphProto, op_type: str, position: int) -> list[np.ndarray]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return [values[node.input[position]] for node in graph.node if node.op_type == op_type]


def test_a_cpu_graph_runs_in_integers_from_the_first_convolution_to_the_last_layer(residual, tmp_path):
    built = int8_static.build(residual, tmp_path / "out", batches((3, 16, 16)))
    # two Conv, Add, GlobalAveragePool, Flatten, Gemm, MatMul
    assert built.changed == 7
    running = operators(built.files[0], optimised=True)
    assert not {"Conv", "Add", "Clip", "Relu", "Gemm", "MatMul"} & set(running)
    assert running.count("QLinearConv") == 2
    assert_close(residual, built.files[0], batches((3, 16, 16))[0], 0.05)


def test_a_value_that_is_only_moved_keeps_its_scale(residual, tmp_path):
    graph = graph_of(int8_static.build(residual, tmp_path / "out", batches((3, 16, 16))).files[0])
    scales = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert scales["features"] == scales["pool"]  # on either side of Flatten
    assert scales["pool"] != scales["r2"]  # on either side of GlobalAveragePool


def test_activations_of_a_cpu_graph_use_all_eight_bits(residual, tmp_path):
    graph = graph_of(int8_static.build(residual, tmp_path / "out", batches((3, 16, 16))).files[0])
    zeros = constants_read_by(graph, "QuantizeLinear", 2)
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert any(zero == 0 for zero in zeros)  # behind a ReLU
    assert any(0 < zero < 255 for zero in zeros)  # the input


def test_a_symmetric_graph_has_zero_points_0_and_float_biases(residual, tmp_path):
    built = int8_static.build(residual, tmp_path / "out", batches((3, 16, 16)), symmetric=True)
    assert built.changed == 7
    graph = graph_of(built.files[0])
    zeros = constants_read_by(graph, "QuantizeLinear", 2) + constants_read_by(graph, "DequantizeLinear", 2)
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert not any(zero.any() for zero in zeros)
    biases = [node.input[2] for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2]
    assert biases == ["b1", "b2"]
    assert_close(residual, built.files[0], batches((3, 16, 16))[0], 0.06)


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_clipping_gives_finer_steps_than_an_outlier_would(tmp_path, method):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 64]},
        {"y": ["batch", 8]},
        [weight("w", 64, 8)],
    )
    given = batches((64,), rows=512)
    given[0]["x"][0, 0] = 300.0
    errors = {}
    for name in ("minmax", method):
        built = int8_static.build(source, tmp_path / name, given, method=name)
        errors[name] = np.abs(run(source, given[1])[0] - run(built.files[0], given[1])[0]).mean()
    assert errors[method] < errors["minmax"] / 5


def test_weights_have_a_scale_per_channel(residual, tmp_path):
    graph = graph_of(int8_static.build(residual, tmp_path / "out", batches((3, 16, 16))).files[0])
    scales = {tensor.name: list(tensor.dims) for tensor in graph.initializer if tensor.name.endswith("_scale")}
    assert [scales[f"{name}_scale"] for name in ("k1", "k2", "w1", "w2")] == [[16], [16], [24], [5]]


@pytest.mark.parametrize("symmetric", [False, True])
def test_gemm_factors_are_kept(tmp_path, symmetric):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.25, beta=3.0)],
        {"x": ["batch", 32]},
        {"y": ["batch", 8]},
        [weight("w", 32, 8), weight("b", 1, 8, seed=1)],
    )
    built = int8_static.build(source, tmp_path / "out", batches((32,)), symmetric=symmetric)
    assert_close(source, built.files[0], batches((32,))[0], 0.03)


def test_a_small_input_range_does_not_overflow_the_bias(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Mul", ["x", "tiny"], ["t"]), helper.make_node("Gemm", ["t", "w", "b"], ["y"])],
        {"x": ["batch", 8]},
        {"y": ["batch", 4]},
        [weight("w", 8, 4, scale=1e-3), weight("b", 4, seed=1), numpy_helper.from_array(np.float32(1e-5), "tiny")],
    )
    built = int8_static.build(source, tmp_path / "out", batches((8,)))
    assert_close(source, built.files[0], batches((8,))[0], 0.01)


def test_an_output_that_is_rounded_keeps_its_name(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("Conv", ["c", "k2"], ["y"])],
        {"x": ["batch", 4, 8, 8]},
        {"c": ["batch", 6, 6, 6], "y": ["batch", 6, 4, 4]},
        [weight("k", 6, 4, 3, 3, scale=0.2), weight("k2", 6, 6, 3, 3, scale=0.2)],
    )
    built = int8_static.build(source, tmp_path / "out", batches((4, 8, 8)))
    graph = graph_of(built.files[0])
    makers = {name: node.op_type for node in graph.node for name in node.output}
    # Both are what the integer convolution gives, rounded.
    assert [(value.name, makers[value.name]) for value in graph.output] == [
        ("c", "DequantizeLinear"),
        ("y", "DequantizeLinear"),
    ]
    assert_close(source, built.files[0], batches((4, 8, 8))[0], 0.05)


def test_a_mask_of_minus_infinity_stays_in_fp32(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node("Where", ["keep", "scores", "never"], ["masked"]),
            helper.make_node("MatMul", ["masked", "w2"], ["poisoned"]),
            helper.make_node("Softmax", ["masked"], ["y"]),
            helper.make_node("MatMul", ["y", "w2"], ["z"]),
        ],
        {"x": ["batch", 8], "keep": ["batch", 6]},
        {"y": ["batch", 6], "poisoned": ["batch", 3], "z": ["batch", 3]},
        [
            weight("w", 8, 6),
            numpy_helper.from_array(np.float32(-np.inf), "never"),
            numpy_helper.from_array(np.abs(numpy_helper.to_array(weight("", 6, 3))) + 0.1, "w2"),
        ],
        types={"keep": TensorProto.BOOL},
    )
    given = [{**batch, "keep": np.arange(96).reshape(16, 6) % 5 > 0} for batch in batches((8,))]
    built = int8_static.build(source, tmp_path / "out", given)
    assert built.changed == 2
    wanted, got = run(source, given[0]), run(built.files[0], given[0])
    np.testing.assert_array_equal(np.isinf(wanted[1]), np.isinf(got[1]))
    np.testing.assert_allclose(got[0], wanted[0], atol=0.02)
    np.testing.assert_allclose(got[2], wanted[2], atol=0.03)


def test_two_dynamic_axes_a_scalar_and_integers_are_ordinary(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Mul", ["rows", "gain"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "w"], ["hidden"]),
            helper.make_node("LayerNormalization", ["hidden", "ones"], ["normal"]),
            helper.make_node("MatMul", ["normal", "w2"], ["y"]),
            helper.make_node("NonZero", ["hidden"], ["places"]),
        ],
        {"ids": ["sequence", "batch"], "gain": []},
        {"y": ["sequence", "batch", 4], "places": [3, "count"]},
        [weight("table", 50, 16), weight("w", 16, 24), weight("ones", 24), weight("w2", 24, 4)],
        types={"ids": TensorProto.INT64, "places": TensorProto.INT64},
    )
    rng = np.random.default_rng(1)
    # Every batch has its own shape, and the batch is not on axis 0.
    given = [
        {"ids": rng.integers(0, 50, (length, rows)), "gain": np.array(1 + length / 10, np.float32)}
        for length, rows in [(3, 40), (7, 30), (1, 20), (5, 10)]
    ]
    built = int8_static.build(source, tmp_path / "out", given)
    assert built.changed == 2
    wanted, got = run(source, given[3]), run(built.files[0], given[3])
    assert np.abs(got[0] - wanted[0]).max() <= 0.04 * np.abs(wanted[0]).max()
    inputs = {value.name: value.type.tensor_type for value in graph_of(built.files[0]).input}
    assert inputs["ids"].elem_type == TensorProto.INT64
    assert len(inputs["gain"].shape.dim) == 0


def test_an_empty_value_has_a_range(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Compress", ["x", "keep"], ["some"], axis=0),
            helper.make_node("MatMul", ["some", "w"], ["y"]),
        ],
        {"x": ["batch", 4], "keep": ["batch"]},
        {"y": ["kept", 3]},
        [weight("w", 4, 3)],
        types={"keep": TensorProto.BOOL},
    )
    given = [{**batch, "keep": np.full(16, index > 0)} for index, batch in enumerate(batches((4,)))]
    built = int8_static.build(source, tmp_path / "out", given)
    assert_close(source, built.files[0], given[1], 0.02)


CONSTANTS = {
    "shape": np.array([0, 4, 8, 8]),
    "starts": np.array([1]),
    "ends": np.array([7]),
    "axes": np.array([2]),
    "one": np.array([1]),
    "picked": np.array([0, 2, 3]),
    "sizes": np.array([1, 1, 2, 2], np.float32),
}


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Add", ["c", "c"], ["d"])],
        [helper.make_node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2])],
        [helper.make_node("Concat", ["c", "c"], ["d"], axis=2)],
        [helper.make_node("Gather", ["c", "picked"], ["d"], axis=2)],
        [helper.make_node("GlobalAveragePool", ["c"], ["d"])],
        [helper.make_node("Identity", ["c"], ["d"])],
        [helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2])],
        [helper.make_node("Relu", ["c"], ["d"])],
        [helper.make_node("Reshape", ["c", "shape"], ["d"])],
        [helper.make_node("Resize", ["c", "", "sizes"], ["d"], mode="nearest")],
        [helper.make_node("Slice", ["c", "starts", "ends", "axes"], ["d"])],
        [
            helper.make_node("Split", ["c"], ["s", "t"], axis=2, num_outputs=2),
            helper.make_node("Add", ["s", "t"], ["d"]),
        ],
        [helper.make_node("Transpose", ["c"], ["d"], perm=[0, 1, 3, 2])],
        [helper.make_node("Unsqueeze", ["c", "one"], ["u"]), helper.make_node("Squeeze", ["u", "one"], ["d"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_what_passes_between_two_convolutions_stays_in_integers(tmp_path, between):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Conv", ["x", "k"], ["c"]), *between, helper.make_node("Conv", ["d", "p"], ["y"])],
        {"x": ["batch", 3, 10, 10]},
        {"y": ["batch", 2, "h", "w"]},
        [
            weight("k", 4, 3, 3, 3, scale=0.2),
            weight("p", 2, 4, 1, 1),
            *(numpy_helper.from_array(values, name) for name, values in CONSTANTS.items()),
        ],
    )
    given = batches((3, 10, 10))
    built = int8_static.build(source, tmp_path / "out", given)
    # onnxruntime leaves one pair: it quantises the input and dequantises the output.
    running = operators(built.files[0], optimised=True)
    assert running.count("QuantizeLinear") == 1
    assert running.count("DequantizeLinear") == 1
    assert running.count("QLinearConv") == 2
    assert_close(source, built.files[0], given[0], 0.05)


def test_interpolation_has_no_integer_kernel(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["c"]),
            helper.make_node("Resize", ["c", "", "sizes"], ["d"], mode="linear"),
            helper.make_node("Conv", ["d", "p"], ["y"]),
        ],
        {"x": ["batch", 3, 10, 10]},
        {"y": ["batch", 2, "h", "w"]},
        [
            weight("k", 4, 3, 3, 3, scale=0.2),
            weight("p", 2, 4, 1, 1),
            numpy_helper.from_array(CONSTANTS["sizes"], "sizes"),
        ],
    )
    given = batches((3, 10, 10))
    built = int8_static.build(source, tmp_path / "out", given)
    assert built.changed == 2
    assert_close(source, built.files[0], given[0], 0.05)


@pytest.mark.parametrize(("symmetric", "quantised"), [(False, 1), (True, 2)])
def test_a_bias_that_no_integer_kernel_can_add(tmp_path, symmetric, quantised):
    source = save(
        tmp_path / "m.onnx",
        [
            helper.make_node("Gemm", ["x", "w", "x"], ["h"], beta=0.5),
            helper.make_node("Gemm", ["h", "w", "b"], ["y"]),
        ],
        {"x": ["batch", 8]},
        {"y": ["batch", 8]},
        [weight("w", 8, 8, scale=0.3), weight("b", 8)],
    )
    built = int8_static.build(source, tmp_path / "out", batches((8,)), symmetric=symmetric)
    assert built.changed == quantised
    assert_close(source, built.files[0], batches((8,))[0], 0.05)


def test_a_transposed_convolution_is_left_to_gpus(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("ConvTranspose", ["x", "k", "b"], ["y"], group=2, strides=[2, 2])],
        {"x": ["batch", 4, 5, 5]},
        {"y": ["batch", 6, 11, 11]},
        [weight("k", 4, 3, 3, 3, scale=0.2), weight("b", 6)],
    )
    given = batches((4, 5, 5))
    built = int8_static.build(source, tmp_path / "out", given, symmetric=True)
    assert built.changed == 1
    assert_close(source, built.files[0], given[0], 0.03)
    with pytest.raises(CandidateError, match="nothing was quantised"):
        int8_static.build(source, tmp_path / "out", given)


def test_a_convolution_over_time_runs_in_integers(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Conv", ["x", "k", "b"], ["y"], dilations=[2], group=2)],
        {"x": ["batch", 4, "time"]},
        {"y": ["batch", 6, "left"]},
        [weight("k", 6, 2, 3), weight("b", 6)],
    )
    given = batches((4, 20))
    built = int8_static.build(source, tmp_path / "out", given)
    assert "QLinearConv" in operators(built.files[0], optimised=True)
    assert_close(source, built.files[0], given[0], 0.03)


def test_a_source_in_half_precision_is_named(tmp_path):
    half = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        [half],
        types={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16},
    )
    with pytest.raises(CandidateError, match="the weights of MatMul are float16, wanted float32"):
        int8_static.build(source, tmp_path / "out", batches((4,)))


def test_weights_that_are_not_finite_are_named(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 4]},
        [numpy_helper.from_array(np.full((4, 4), np.inf, np.float32), "w")],
    )
    given = [{"x": np.abs(batch["x"]) + 1} for batch in batches((4,))]
    with pytest.raises(CandidateError, match="a weight holds NaN or infinity"):
        int8_static.build(source, tmp_path / "out", given)


def test_weights_shared_by_two_nodes_are_stored_once(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])],
        {"x": ["batch", 8]},
        {"y": ["batch", 8]},
        [weight("w", 8, 8, scale=0.3)],
    )
    built = int8_static.build(source, tmp_path / "out", batches((8,)))
    weights = [tensor for tensor in graph_of(built.files[0]).initializer if list(tensor.dims) == [8, 8]]
    assert [tensor.data_type for tensor in weights] == [TensorProto.INT8]
    assert_close(source, built.files[0], batches((8,))[0], 0.03)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (batches((4,), rows=99, size=99), "99 samples; wanted at least 100"),
        ([{"x": np.ones((200, 4), np.float32)}], "all 200 calibration samples are the same"),
        ([{"x": np.full((200, 4), np.nan, np.float32)}], "NaN or infinity in input 'x'"),
        ([{"x": np.zeros((200, 7), np.float32) + np.arange(7, dtype=np.float32)}] * 2, "are the same"),
        ([{"x": np.arange(1400, dtype=np.float32).reshape(200, 7)}], "does not run on a calibration batch"),
    ],
)
def test_samples_that_cannot_calibrate_are_refused(tmp_path, given, cause):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 4]},
        {"y": ["batch", 3]},
        [weight("w", 4, 3)],
    )
    with pytest.raises(CandidateError, match=cause):
        int8_static.build(source, tmp_path / "out", given)


def test_a_graph_without_anchors_is_refused(tmp_path):
    source = save(
        tmp_path / "m.onnx", [helper.make_node("Exp", ["x"], ["y"])], {"x": ["batch", 4]}, {"y": ["batch", 4]}
    )
    with pytest.raises(CandidateError, match="nothing was quantised: the graph has no Conv, Gemm or MatMul"):
        int8_static.build(source, tmp_path / "out", batches((4,)))


def test_nothing_is_printed(residual, tmp_path, capfd, caplog):
    int8_static.build(residual, tmp_path / "out", batches((3, 16, 16)))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
