import sys

import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.budgets import Dim
from optimize.errors import CandidateError
from optimize.manifest import Signature, TensorSpec
from optimize.recipes import fp16, int8_dynamic, int8_static, tensorrt
from tests.optimize.recipes import exported
from tests.optimize.recipes.models import batches, save, weight

trt = pytest.importorskip("tensorrt_rtx", reason="the extra `rtx` is not installed", exc_type=ImportError)

CAPABILITIES = ("80", "86", "89", "120")
BATCH = Dim(min=1, opt=8, max=32)
IMAGE = Signature((TensorSpec("x", "float32", ("batch", 3, 16, 16)),), (), {"batch": BATCH})
TEXT = Signature(
    tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("ids", "mask")),
    (),
    {"batch": BATCH, "sequence": Dim(min=4, opt=32, max=128)},
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "image": (exported.residual(folder / "image.onnx"), IMAGE, batches((3, 16, 16))),
        "text": (exported.encoder(folder / "text.onnx"), TEXT, [exported.sentences(120, 9)]),
    }


def typed(precision: str, source, folder, samples):
    if precision == "fp16":
        return fp16.build(source, folder, samples).files[0]
    if precision == "int8":
        return int8_static.build(source, folder, samples, symmetric=True).files[0]
    return source


@pytest.mark.parametrize("model", ["image", "text"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_engine_for_four_generations_of_gpus(models, tmp_path, model, precision):
    source, signature, samples = models[model]
    graph = typed(precision, source, tmp_path, samples)
    built = tensorrt.build(graph, tmp_path / "out", signature, compute_capabilities=CAPABILITIES)
    assert [path.name for path in built.files] == ["model.engine"]
    assert built.files[0].stat().st_size > 10_000
    assert (built.changed > 0) == (precision != "fp32")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_each_generation_alone(models, tmp_path, capability):
    source, signature, _ = models["image"]
    assert tensorrt.build(source, tmp_path, signature, compute_capabilities=[capability]).files[0].exists()


def test_fp16_weights_take_half_the_engine(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["batch", 1024]},
        {"y": ["batch", 1024]},
        [weight("w", 1024, 1024)],
    )
    signature = Signature((TensorSpec("x", "float32", ("batch", 1024)),), (), {"batch": BATCH})
    half = fp16.build(source, tmp_path / "half").files[0]
    sizes = [
        tensorrt.build(graph, tmp_path / "out", signature, compute_capabilities=["89"]).files[0].stat().st_size
        for graph in (source, half)
    ]
    assert sizes[1] < 0.7 * sizes[0]


def test_the_profile_spans_the_declared_dims(models):
    _, signature, _ = models["text"]
    assert tensorrt.shapes(signature.inputs[0], signature) == ((1, 4), (8, 32), (32, 128))


def test_a_dimension_without_a_range_is_named(models, tmp_path):
    source, signature, _ = models["text"]
    without = Signature(signature.inputs, (), {"batch": BATCH})
    with pytest.raises(CandidateError, match="dimension 'sequence' of input 'ids' has no range"):
        tensorrt.build(source, tmp_path, without, compute_capabilities=["89"])


def test_a_graph_that_tensorrt_cannot_express_is_refused_by_node(models, tmp_path):
    source, signature, _ = models["text"]
    dynamic = int8_dynamic.build(source, tmp_path).files[0]
    with pytest.raises(CandidateError, match=r"cannot express the graph: node .*DynamicQuantizeLinear"):
        tensorrt.build(dynamic, tmp_path, signature, compute_capabilities=["89"])


def test_an_input_that_decides_a_shape_is_refused(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("Expand", ["w", "shape"], ["y"])],
        {"shape": [2]},
        {"y": ["rows", 4]},
        [weight("w", 1, 4)],
        types={"shape": TensorProto.INT64},
    )
    signature = Signature((TensorSpec("shape", "int64", (2,)),), (), {})
    with pytest.raises(CandidateError, match="input 'shape' decides the shape of other values"):
        tensorrt.build(source, tmp_path, signature, compute_capabilities=["89"])


def test_an_unknown_compute_capability_is_refused_with_the_known_ones(models, tmp_path):
    source, signature, _ = models["image"]
    with pytest.raises(CandidateError, match=r"no compute capability '8.9'; wanted one of .*80, 86, 89, 120"):
        tensorrt.build(source, tmp_path, signature, compute_capabilities=["8.9"])


def test_a_missing_library_says_how_to_install_it(models, tmp_path, monkeypatch):
    source, signature, _ = models["image"]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(CandidateError, match=r"tensorrt-rtx is not installed; pip install 'proveserve\[rtx\]'"):
        tensorrt.build(source, tmp_path, signature)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(CandidateError, match="tensorrt is not installed"):
        tensorrt.build(source, tmp_path, signature, library="tensorrt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorrt-rtx keeps the calls, which do nothing there
def test_a_timing_cache_is_written_and_read_again(tmp_path):
    log = trt.Logger(trt.Logger.ERROR)
    config = trt.Builder(log).create_builder_config()
    path = tmp_path / "timing.cache"
    tensorrt.load_timing_cache(config, path)
    tensorrt.save_timing_cache(config, path)
    assert path.stat().st_size > 0
    tensorrt.load_timing_cache(config, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["timing.cache"]


def test_rank_0_inputs_and_static_shapes_need_no_range(tmp_path):
    source = save(
        tmp_path / "m.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "gain"], ["y"])],
        {"x": [2, 4], "gain": []},
        {"y": [2, 4]},
        [numpy_helper.from_array(numpy_helper.to_array(weight("", 4, 4)), "w")],
    )
    signature = Signature((TensorSpec("x", "float32", (2, 4)), TensorSpec("gain", "float32", ())), (), {})
    assert tensorrt.build(source, tmp_path, signature, compute_capabilities=["89"]).files[0].exists()


def test_nothing_is_printed(models, tmp_path, capfd):
    source, signature, _ = models["text"]
    tensorrt.build(source, tmp_path, signature, compute_capabilities=["89"])
    assert capfd.readouterr() == ("", "")
