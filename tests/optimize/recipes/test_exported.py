"""Every precision on graphs out of torch's exporter, against fp32, for the smallest and the largest shape."""

import numpy as np
import pytest

from optimize.recipes import fp16, graph, int8_dynamic, int8_static
from tests.optimize.recipes import exported
from tests.optimize.recipes.models import batches, operators, run


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    return exported.residual(tmp_path_factory.mktemp("residual") / "m.onnx")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return exported.encoder(tmp_path_factory.mktemp("encoder") / "m.onnx")


IMAGES = batches((3, 16, 16))
SENTENCES = [exported.sentences(rows, length, rows) for rows, length in ((40, 5), (40, 12), (30, 7))]


def assert_close(source, built, inputs, tolerance: float) -> None:
    """Every output differs from fp32's by at most `tolerance` of its greatest magnitude."""
    for wanted, got in zip(run(source, inputs), run(built.files[0], inputs), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def built_as(precision: str, source, folder, samples):
    match precision:
        case "fp16":
            return fp16.build(source, folder, samples)
        case "int8-dynamic":
            return int8_dynamic.build(source, folder)
        case "symmetric":
            return int8_static.build(source, folder, samples, symmetric=True)
    return int8_static.build(source, folder, samples, method=precision)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("fp16", 0.005),
        ("int8-dynamic", 0.02),
        ("minmax", 0.05),
        ("percentile", 0.05),
        ("entropy", 0.05),
        ("symmetric", 0.05),
    ],
)
def test_an_image_network(residual, tmp_path, precision, tolerance):
    built = built_as(precision, residual, tmp_path, IMAGES)
    for inputs in (IMAGES[0], {"x": IMAGES[1]["x"][:1]}):
        assert_close(residual, built, inputs, tolerance)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("fp16", 0.005), ("int8-dynamic", 0.05), ("minmax", 0.05), ("percentile", 0.05), ("symmetric", 0.07)],
)
def test_a_text_encoder_with_two_dynamic_axes(encoder, tmp_path, precision, tolerance):
    built = built_as(precision, encoder, tmp_path, SENTENCES)
    for rows, length in ((1, 1), (3, 9), (17, 31)):
        assert_close(encoder, built, exported.sentences(rows, length, 99), tolerance)


def test_an_image_network_runs_in_integers(residual, tmp_path):
    built = built_as("minmax", residual, tmp_path, IMAGES)
    # two Conv and the last layer; the sum leads to a mean that has no integer kernel, so it stays in fp32
    assert built.changed == 3
    running = operators(built.files[0], optimised=True)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(running)
    assert running.count("QLinearConv") == 2


def test_normalisation_softmax_and_attention_scores_stay_in_fp32(encoder, tmp_path):
    built = built_as("minmax", encoder, tmp_path, SENTENCES)
    running = operators(built.files[0], optimised=True)
    assert running.count("LayerNormalization") + running.count("SkipLayerNormalization") == 4
    assert running.count("Softmax") == 2
    assert running.count("MatMul") + running.count("FusedMatMul") == 4
    # per layer: projection of queries, keys and values, attention output, two of the feed-forward; and the head
    assert built.changed == 2 * 4 + 1


def test_preparing_twice_changes_nothing(encoder, tmp_path):
    graph.prepare(encoder, tmp_path / "once.onnx")
    graph.prepare(tmp_path / "once.onnx", tmp_path / "twice.onnx")
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()
    inputs = exported.sentences(3, 9)
    for wanted, got in zip(run(encoder, inputs), run(tmp_path / "once.onnx", inputs), strict=True):
        np.testing.assert_array_equal(wanted, got)
