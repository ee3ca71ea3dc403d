import hashlib
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.errors import CandidateError, SourceError
from optimize.recipes import fp16, graph, int8_dynamic, int8_static, onnx_files
from tests.optimize.recipes.models import batches, run, save, weight

X = np.random.default_rng(7).normal(size=(5, 64)).astype(np.float32)


@pytest.fixture
def source(tmp_path):
    return save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])],
        {"x": ["batch", 64]},
        {"y": ["batch", 64]},
        [weight("w1", 64, 70, scale=0.1), weight("w2", 70, 64, seed=1, scale=0.1)],
    )


@pytest.fixture
def beside(source, tmp_path, monkeypatch):
    """The same model with its weights in a file beside it, and a limit that makes every recipe do likewise."""
    monkeypatch.setattr(onnx_files, "INLINE_LIMIT_BYTES", 4096)
    return onnx_files.write(onnx_files.read(source), tmp_path / "beside" / "m.onnx")


def test_weights_next_to_the_model_are_named_by_their_digest(source, beside):
    model, data = beside
    assert data.name == hashlib.sha256(data.read_bytes()).hexdigest()
    assert data.parent == model.parent
    assert model.stat().st_size < 2000
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        places = {entry.key: entry.value for entry in tensor.external_data}
        assert places["location"] == data.name
        assert int(places["offset"]) % 4096 == 0
    np.testing.assert_array_equal(run(source, {"x": X})[0], run(model, {"x": X})[0])


def test_a_model_renamed_to_its_digest_finds_its_weights(source, beside, tmp_path):
    model, data = beside
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in beside:
        shutil.copy(path, blobs / hashlib.sha256(path.read_bytes()).hexdigest())
    published = blobs / hashlib.sha256(model.read_bytes()).hexdigest()
    np.testing.assert_array_equal(run(source, {"x": X})[0], run(published, {"x": X})[0])
    assert (blobs / data.name).exists()


def test_every_recipe_reads_and_writes_external_data(source, beside, tmp_path):
    model = beside[0]
    given = batches((64,))
    graph.prepare(model, tmp_path / "prepared" / "m.onnx")
    assert len(list((tmp_path / "prepared").iterdir())) == 2
    wanted = run(source, given[0])[0]
    for built in (
        fp16.build(model, tmp_path / "fp16", given),
        int8_dynamic.build(model, tmp_path / "dynamic"),
        int8_static.build(model, tmp_path / "static", given, method="percentile"),
    ):
        assert len(built.files) == 2
        assert sorted(built.files) == sorted(built.files[0].parent.iterdir())
        assert np.abs(run(built.files[0], given[0])[0] - wanted).max() < 0.05 * np.abs(wanted).max()


def test_weights_that_are_lists_of_numbers_are_moved_too(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "INLINE_LIMIT_BYTES", 0)
    values = np.arange(4096, dtype=np.float32).reshape(64, 64) / 4096
    numbers = helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.ravel().tolist())
    assert not numbers.HasField("raw_data")
    path = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["b", 64]},
        {"y": ["b", 64]},
        [numbers],
    )
    model, data = onnx_files.write(onnx_files.read(path), tmp_path / "out.onnx")
    assert data.stat().st_size == values.nbytes
    np.testing.assert_array_equal(run(path, {"x": X})[0], run(model, {"x": X})[0])


def test_missing_external_data_is_named(beside):
    model, data = beside
    data.unlink()
    with pytest.raises(SourceError, match=r"external data cannot be read .* keep the data file next to the model"):
        onnx_files.read(model)


def test_a_missing_file_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        onnx_files.read(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match="holds no ONNX graph"):
        onnx_files.read(tmp_path / "empty.onnx")


def test_a_folder_that_cannot_be_written_is_one_sentence(source, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CandidateError, match=r"model.onnx: cannot be written"):
        onnx_files.write(onnx_files.read(source), tmp_path / "out" / "model.onnx")


@pytest.mark.slow
def test_a_model_over_two_gigabytes(tmp_path):
    size, count = 8192, 9  # 2.4 GB
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((size, size), np.float32) / np.float32(90), f"w{index}")
        for index in range(count)
    ]
    names = ["x", *(f"h{index}" for index in range(count))]
    nodes = [helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]]) for index in range(count)]
    graph_ = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["batch", size])],
    )
    graph_.initializer.extend(weights)
    del weights
    model = helper.make_model(graph_, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    source, data = onnx_files.write(model, tmp_path / "m.onnx")
    assert data.stat().st_size > 2**31
    graph.prepare(source, tmp_path / "prepared" / "m.onnx")
    noise = rng.standard_normal((128, size), np.float32)
    x = {"x": (noise + np.roll(noise, 1, axis=1)) / np.float32(np.sqrt(2))}  # pure noise is refused as calibration
    wanted = run(tmp_path / "prepared" / "m.onnx", x)[0]
    for build, tolerance in (
        (lambda folder: fp16.build(source, folder, [x]), 0.01),
        (lambda folder: int8_dynamic.build(source, folder), 0.2),
        (lambda folder: int8_static.build(source, folder, [x]), 0.2),
    ):
        built = build(tmp_path / "out")
        assert built.changed == count
        assert np.abs(run(built.files[0], x)[0] - wanted).max() < tolerance * np.abs(wanted).max()
        shutil.rmtree(tmp_path / "out")
