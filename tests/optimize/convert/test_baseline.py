from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from optimize.budgets import Dim, InputSpec, ModelBudgets, OutputSpec
from optimize.convert import baseline
from optimize.convert.baseline import BASELINE, Conversion
from optimize.errors import SourceError
from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession
from optimize.source import loading
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests.optimize.model_refs import linear, reals
from tests.optimize.recipes.models import save
from tests.optimize.source import modules

HERE = Path(__file__).parents[1] / "source"
ROWS = Dim(1, 2, 5)
X = {"x": InputSpec("float32", ("batch", 4))}


def module(name: str, **options: Any) -> ModelBudgets:
    return ModelBudgets(source=f"modules.py:{name}", **({"inputs": X, "dims": {"batch": ROWS}} | options))


def converted(
    folder: Path, budgets: ModelBudgets, batches: list[dict[str, np.ndarray]] | None = None, base: Path = HERE
) -> Conversion:
    """Convert a model whose selection split holds these batches (one of six rows named x by default)."""
    split = folder / "splits"
    split.mkdir()
    chosen = [{"x": reals(6, 4)}] if batches is None else batches
    store_split(split / "selection.npz", [Batch(inputs, None) for inputs in chosen])
    return baseline.convert(budgets, base, split, folder)


def answers(folder: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    with OnnxSession(folder / BASELINE, SessionOptions()) as session:
        return session.run(inputs)


def torch_answer(source: torch.nn.Module, *inputs: np.ndarray) -> Any:
    with torch.inference_mode():
        return source.eval()(*map(torch.from_numpy, inputs))


def signature_of(found: Conversion) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of the inputs and outputs by name."""
    signature = found.signature
    return (
        {spec.name: spec.shape for spec in signature.inputs},
        {spec.name: spec.shape for spec in signature.outputs},
    )


# PyTorch modules.


def test_inputs_go_by_name_in_any_order_of_the_file(tmp_path: Path) -> None:
    specs = {"scale": InputSpec("float32", ("batch", 1)), "image": InputSpec("float32", ("batch", 4))}
    inputs = {"image": reals(6, 4), "scale": reals(6, 1, seed=1)}
    found = converted(tmp_path, module("ByName", inputs=specs), [inputs])
    assert signature_of(found) == ({"scale": ("batch", 1), "image": ("batch", 4)}, {"output": ("batch", 3)})
    assert found.max_difference < 1e-5
    wanted = torch_answer(modules.ByName(), *inputs.values())
    np.testing.assert_allclose(answers(tmp_path, **inputs)["output"], wanted, atol=1e-5)


def test_inputs_with_names_of_our_own_go_in_order(tmp_path: Path) -> None:
    specs = {"left": InputSpec("float32", ("batch", 4)), "right": InputSpec("float32", ("batch", 3))}
    inputs = {"left": reals(6, 4), "right": reals(6, 3, seed=1)}
    converted(tmp_path, module("Positional", inputs=specs), [inputs])
    wanted = torch_answer(modules.Positional(), *inputs.values())
    np.testing.assert_allclose(answers(tmp_path, **inputs)["output"], wanted, atol=1e-5)


def test_several_outputs_are_numbered_and_checked_on_zeros_where_there_are_no_samples(tmp_path: Path) -> None:
    found = baseline.convert(module("TwoOutputs"), HERE, tmp_path / "none", tmp_path)
    assert signature_of(found)[1] == {"output_0": ("batch", 3), "output_1": ("batch",)}
    assert [spec.dtype for spec in found.signature.outputs] == ["float32", "int64"]


def test_declared_outputs_give_their_names_and_axes(tmp_path: Path) -> None:
    outputs = {"logits": OutputSpec(("batch", 3)), "label": OutputSpec(("batch",))}
    found = converted(tmp_path, module("TwoOutputs", outputs=outputs))
    assert signature_of(found)[1] == {"logits": ("batch", 3), "label": ("batch",)}


def test_branches_read_inputs_and_outputs_by_their_new_names(tmp_path: Path) -> None:
    outputs = {"plain": OutputSpec(("batch", 3)), "shifted": OutputSpec(("batch", 3))}
    specs = {"features": InputSpec("float32", ("batch", 4))}
    converted(tmp_path, module("Conditional", inputs=specs, outputs=outputs), [{"features": reals(6, 4)}])
    for x in (np.ones((3, 4), np.float32), -np.ones((3, 4), np.float32)):
        got = answers(tmp_path, features=x)
        np.testing.assert_allclose(got["shifted"] - got["plain"], np.full((3, 3), 4.0), atol=1e-5)


def test_same_tensor_may_be_given_twice(tmp_path: Path) -> None:
    found = converted(tmp_path, module("SameOutputTwice"))
    assert list(signature_of(found)[1]) == ["output_0", "output_1"]
    got = answers(tmp_path, x=reals(2, 4))
    np.testing.assert_array_equal(got["output_0"], got["output_1"])


def test_dict_outputs_keep_their_keys(tmp_path: Path) -> None:
    found = converted(tmp_path, module("DictOutputs"))
    assert signature_of(found)[1] == {"logits": ("batch", 3), "probabilities": ("batch", 3)}
    np.testing.assert_allclose(answers(tmp_path, x=reals(2, 4))["probabilities"].sum(axis=1), 1, atol=1e-6)


@pytest.fixture(scope="module")
def inner_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A name that the exporter gives to a value inside the graph of InnerNames."""
    folder = tmp_path_factory.mktemp("inner")
    converted(folder, module("InnerNames"))
    return onnx.load(folder / BASELINE).graph.node[0].output[0]


def test_output_may_have_the_name_of_an_inner_value(tmp_path: Path, inner_name: str) -> None:
    found = converted(tmp_path, module("InnerNames", outputs={inner_name: OutputSpec(("batch", 3))}))
    assert found.max_difference < 1e-5
    assert signature_of(found)[1] == {inner_name: ("batch", 3)}
    onnx.checker.check_model(str(tmp_path / BASELINE))


def test_input_may_have_the_name_of_an_inner_value(tmp_path: Path, inner_name: str) -> None:
    specs = {inner_name: InputSpec("float32", ("batch", 4))}
    found = converted(tmp_path, module("InnerNames", inputs=specs), [{inner_name: reals(6, 4)}])
    assert signature_of(found)[0] == {inner_name: ("batch", 4)}
    onnx.checker.check_model(str(tmp_path / BASELINE))


def test_two_dynamic_axes_and_outputs_that_follow_the_inputs_length(tmp_path: Path) -> None:
    ids = {"ids": np.random.default_rng(0).integers(0, 9, (6, 7))}
    budgets = module(
        "Sequence",
        inputs={"ids": InputSpec("int64", ("batch", "length"))},
        dims={"batch": ROWS, "length": Dim(2, 5, 11)},
    )
    found = converted(tmp_path, budgets, [ids])
    assert signature_of(found)[1] == {
        "output_0": ("batch", "length"),
        "output_1": ("batch", "output_1_1"),
        "output_2": ("batch", 3),
    }
    assert found.signature.batchable
    for rows, length in [(1, 2), (3, 11), (5, 4)]:
        got = answers(tmp_path, ids=np.ones((rows, length), np.int64))
        assert [value.shape for value in got.values()] == [(rows, length), (rows, length - 1), (rows, 3)]


def test_batch_need_not_be_the_first_axis(tmp_path: Path) -> None:
    budgets = module("BatchLast", inputs={"x": InputSpec("float32", (4, "batch"))})
    found = converted(tmp_path, budgets, [{"x": reals(4, 6)}])
    assert signature_of(found) == ({"x": (4, "batch")}, {"output": (3, "batch")})
    assert found.signature.batchable


def test_model_without_batch_axis(tmp_path: Path) -> None:
    budgets = module("NoBatch", inputs={"x": InputSpec("float32", (4,))}, dims={})
    found = converted(tmp_path, budgets, [{"x": reals(4)}, {"x": reals(4, seed=1)}])
    assert signature_of(found) == ({"x": (4,)}, {"output": (3,)})
    assert not found.signature.batchable


def test_rank_0_input(tmp_path: Path) -> None:
    specs = {"image": InputSpec("float32", ("batch", 4)), "scale": InputSpec("float32", ())}
    inputs = {"image": reals(6, 4), "scale": np.array(2.5, np.float32)}
    found = converted(tmp_path, module("ByName", inputs=specs), [inputs])
    assert signature_of(found) == ({"image": ("batch", 4), "scale": ()}, {"output": ("batch", 3)})
    assert len(onnx.load(tmp_path / BASELINE).graph.input[1].type.tensor_type.shape.dim) == 0
    np.testing.assert_allclose(
        answers(tmp_path, **inputs)["output"], torch_answer(modules.ByName(), *inputs.values()), atol=1e-5
    )


def test_input_that_the_module_ignores_stays_an_input(tmp_path: Path) -> None:
    specs = {"x": X["x"], "mask": InputSpec("bool", ("batch", 4))}
    inputs = {"x": reals(6, 4), "mask": np.ones((6, 4), bool)}
    found = converted(tmp_path, module("IgnoresAnInput", inputs=specs), [inputs])
    assert list(signature_of(found)[0]) == ["x", "mask"]
    assert answers(tmp_path, **inputs)["output"].shape == (6, 3)


def test_module_that_gives_its_input_back(tmp_path: Path) -> None:
    found = converted(tmp_path, module("Identity"))
    assert signature_of(found)[1] == {"output": ("batch", 4)}
    np.testing.assert_array_equal(answers(tmp_path, x=reals(3, 4))["output"], reals(3, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Random", "differs from the source by .*; does the model branch on its input, or use random numbers?"),
        ("Branching", "the model cannot be exported to ONNX: .*data-dependent expression"),
        ("ForgetsTheBatch", "the model cannot be exported to ONNX: .*inferred a static shape of 2"),
        ("AnswersNone", "the model answers NoneType; wanted a tensor, a tuple of tensors or a dict of tensors"),
        ("fails", r"modules\.py:fails\(\) failed: RuntimeError: weights are not here"),
        ("gives_text", r"modules\.py:gives_text\(\) gave str; wanted a torch\.nn\.Module"),
        ("Absent", r"modules\.py:Absent: modules\.py has no attribute 'Absent'"),
    ],
)
def test_module_that_cannot_be_exported_is_reported_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        converted(tmp_path, module(name))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_graph_is_compared_with_the_module_at_min_opt_and_max(tmp_path: Path, rows: int) -> None:
    with pytest.raises(SourceError, match=rf"output 'output' at {{'batch': {rows}}}: the exported graph differs"):
        converted(tmp_path, module(f"differs_at_{rows}"))


def test_module_needs_its_inputs_declared(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a PyTorch source needs its inputs declared"):
        converted(tmp_path, module("TwoOutputs", inputs={}))


def test_more_declared_outputs_than_given_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"the model gives 2 outputs, budgets\.toml declares 1: logits"):
        converted(tmp_path, module("TwoOutputs", outputs={"logits": OutputSpec(("batch", 3))}))


def test_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(
        modules.InnerNames().eval(), (torch.ones(2, 4),), dynamic_shapes={"x": {0: torch.export.Dim("batch", max=64)}}
    )
    torch.export.save(program, tmp_path / "net.pt2")
    budgets = ModelBudgets(source="net.pt2", inputs=X, dims={"batch": ROWS})
    found = converted(tmp_path, budgets, base=tmp_path)
    assert signature_of(found) == ({"x": ("batch", 4)}, {"output": ("batch", 3)})
    x = reals(3, 4)
    np.testing.assert_allclose(answers(tmp_path, x=x)["output"], torch_answer(modules.InnerNames(), x), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"PK", "not a program that torch.export.save wrote")]
)
def test_program_that_is_missing_or_damaged(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content:
        (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        converted(tmp_path, ModelBudgets(source="net.pt2", inputs=X, dims={"batch": ROWS}), base=tmp_path)


# ONNX files.


def test_onnx_source_is_taken_as_it_is(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    found = converted(tmp_path, ModelBudgets(source="net.onnx"), base=tmp_path)
    assert (tmp_path / BASELINE).read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert signature_of(found) == ({"x": ("batch", 4)}, {"y": ("batch", 3)})
    assert found.signature.dims == {"batch": Dim(1, 1, 32)}


def test_axis_without_a_name_gets_one_from_the_file(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx", batch=None)
    found = converted(tmp_path, ModelBudgets(source="net.onnx", inputs=X, dims={"batch": ROWS}), base=tmp_path)
    assert signature_of(found) == ({"x": ("batch", 4)}, {"y": ("batch", 3)})


def test_axis_without_any_name_takes_the_sizes_that_the_samples_show(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx", batch=None)
    batches = [{"x": reals(rows, 4)} for rows in (3, 9, 5)]
    found = converted(tmp_path, ModelBudgets(source="net.onnx"), batches, base=tmp_path)
    assert signature_of(found) == ({"x": ("x_0", 4)}, {"y": ("x_0", 3)})
    assert found.signature.dims == {"x_0": Dim(3, 5, 9)}


def test_external_data_is_copied(tmp_path: Path) -> None:
    model = onnx.load(linear(tmp_path / "net.onnx"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    budgets = ModelBudgets(source="net.onnx")
    converted(folder, budgets, base=tmp_path)
    before = loading.read(budgets, tmp_path, tmp_path).source_digest
    weights = bytearray((tmp_path / "net.bin").read_bytes())
    weights[3] ^= 1
    (tmp_path / "net.bin").write_bytes(weights)
    assert answers(folder, x=reals(2, 4))["y"].shape == (2, 3)
    assert loading.read(budgets, tmp_path, tmp_path).source_digest != before


def test_axis_that_depends_on_the_inputs_values_is_not_fixed(tmp_path: Path) -> None:
    save(tmp_path / "net.onnx", [helper.make_node("NonZero", ["x"], ["y"])], {"x": [4]}, {"y": [1, None]},
         types={"y": TensorProto.INT64})  # fmt: skip
    rows = [np.arange(4, dtype=np.float32) * (np.arange(4) < count) for count in (2, 3, 4)]
    found = converted(tmp_path, ModelBudgets(source="net.onnx"), [{"x": row} for row in rows], base=tmp_path)
    assert signature_of(found)[1] == {"y": (1, "y_1")}


def test_string_input(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    save(
        tmp_path / "net.onnx",
        [node],
        {"x": ["batch"]},
        {"y": ["batch"]},
        types={"x": TensorProto.STRING, "y": TensorProto.STRING},
    )
    texts = np.array(["a", "b", "longer", "d"], dtype=object)
    found = converted(tmp_path, ModelBudgets(source="net.onnx"), [{"x": texts}], base=tmp_path)
    assert found.signature.outputs[0].dtype == "object"
    assert signature_of(found)[1] == {"y": ("batch",)}


def test_declared_output_must_be_one_of_the_files(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    budgets = ModelBudgets(source="net.onnx", outputs={"z": OutputSpec(("batch", 3))})
    with pytest.raises(SourceError, match=r"outputs \['z'\] are declared; the model's are \['y'\]"):
        converted(tmp_path, budgets, base=tmp_path)


def test_size_that_the_graph_cannot_take_is_reported(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2, -1])
    save(tmp_path / "net.onnx", [node], {"x": ["batch", 3]}, {"y": [2, None]}, [shape])
    with pytest.raises(SourceError, match=r"fails at input shapes \{'x': \[1, 3\]\}: .*; check `dims`"):
        converted(tmp_path, ModelBudgets(source="net.onnx"), [{"x": reals(4, 3)}], base=tmp_path)


@pytest.mark.parametrize(
    ("batch", "rows", "message"),
    [
        ("batch", 33, "latency.batch = 33, but dims.batch goes from 1 to 32"),
        (2, 2, "no input has an axis named `batch`"),
    ],
)
def test_requests_that_the_model_does_not_take_are_refused(tmp_path: Path, batch: Any, rows: int, message: str) -> None:
    linear(tmp_path / "net.onnx", batch=batch)
    dims = converted(tmp_path, ModelBudgets(source="net.onnx"), [{"x": reals(2, 4)}], base=tmp_path).signature.dims
    baseline.check_latency_batch(1, dims)
    with pytest.raises(SourceError, match=message):
        baseline.check_latency_batch(rows, dims)
