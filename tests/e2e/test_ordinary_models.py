"""Models of every ordinary shape come through a whole quick export, each with two precisions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.exporting import answers_to, export, weights

node = helper.make_node
ROWS, WORDS = 1500, 400


def mlp(x: str, y: str) -> list[onnx.NodeProto]:
    return [node("MatMul", [x, "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], [y])]


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, list[Any]],
    **constants: np.ndarray,
) -> None:
    graph = helper.make_graph(
        nodes,
        "ordinary",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights() | constants).items()],
    )
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=9), path)


def batch_on_the_last_axis(path: Path) -> None:
    nodes = [
        node("Transpose", ["x"], ["xt"], perm=[1, 0]),
        *mlp("xt", "yt"),
        node("Transpose", ["yt"], ["y"], perm=[1, 0]),
    ]
    saved(path, nodes, {"x": (TensorProto.FLOAT, [16, "batch"])}, {"y": [4, "batch"]})


def rank_0_input(path: Path) -> None:
    nodes = [*mlp("x", "z"), node("Mul", ["z", "scale"], ["y"])]
    inputs = {"x": (TensorProto.FLOAT, ["batch", 16]), "scale": (TensorProto.FLOAT, [])}
    saved(path, nodes, inputs, {"y": ["batch", 4]})


def no_batch_axis(path: Path) -> None:
    nodes = [node("Unsqueeze", ["x", "zero"], ["x1"]), *mlp("x1", "y1"), node("Squeeze", ["y1", "zero"], ["y"])]
    saved(path, nodes, {"x": (TensorProto.FLOAT, [16])}, {"y": [4]}, zero=np.array([0]))


def output_without_batch_axis(path: Path) -> None:
    nodes = [*mlp("x", "y"), node("ReduceMean", ["y", "zero"], ["mean"], keepdims=0)]
    saved(path, nodes, {"x": (TensorProto.FLOAT, ["batch", 16])}, {"y": ["batch", 4], "mean": [4]}, zero=np.array([0]))


def output_that_follows_the_inputs_length(path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(WORDS, 16)).astype(np.float32)
    nodes = [node("Gather", ["table", "ids"], ["x"]), *mlp("x", "y")]
    saved(path, nodes, {"ids": (TensorProto.INT64, ["batch", "n"])}, {"y": ["batch", "n", 4]}, table=table)


def text(path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(WORDS, 16)).astype(np.float32)
    number = node(
        "LabelEncoder", ["word"], ["id"], domain="ai.onnx.ml", default_int64=0,
        keys_strings=[f"word {i}" for i in range(WORDS)], values_int64s=list(range(WORDS)),
    )  # fmt: skip
    nodes = [number, node("Gather", ["table", "id"], ["x"]), *mlp("x", "y")]
    saved(path, nodes, {"word": (TensorProto.STRING, ["batch"])}, {"y": ["batch", 4]}, table=table)


SAMPLES = """
import numpy as np
seeds = {"calibration": 1, "selection": 2, "confirmation": 3}
def sequences(split):
    generator = np.random.default_rng(seeds[split])
    for length in range(3, 9):
        ids = generator.integers(0, 400, (60, length))
        yield {"ids": ids}, ids[:, 0] % 4
def words(split):
    yield {"word": [f"word {i}" for i in range(seeds[split], 400, 3)]}, None
def first_token(outputs, labels):
    return np.array([float(row[0].argmax() == label) for row, label in zip(outputs, labels)])
"""


SEQUENCES = """data = "own.py:sequences"
accuracy.metric = "own.py:first_token"
dims = { batch = { max = 8 }, n = { min = 2, opt = 4, max = 8 } }
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "keys"),
    [
        (batch_on_the_last_axis, 'data = "rows.npz"'),
        (rank_0_input, 'data = "scaled.npz"'),
        (no_batch_axis, 'data = "rows.npz"'),
        (output_without_batch_axis, 'data = "rows.npz"\naccuracy.output = "y"'),
        (
            output_that_follows_the_inputs_length,
            SEQUENCES,
        ),
        (text, 'data = "own.py:words"'),
    ],
)
def test_ordinary_model_comes_through(tmp_path: Path, write: Callable[[Path], None], keys: str) -> None:
    write(tmp_path / "net.onnx")
    x = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, label=answers_to(x))
    np.savez(tmp_path / "scaled.npz", x=x, scale=np.linspace(0.5, 2, ROWS).astype(np.float32), label=answers_to(x))
    (tmp_path / "own.py").write_text(SAMPLES)
    drop = "" if write is text else "accuracy.max_drop = 0.3\n"
    (tmp_path / "budgets.toml").write_text(
        f'schema = 1\n[models.net]\nsource = "net.onnx"\nprecisions = ["fp32", "int8-static"]\n'
        f"accuracy.min_agreement = 0.5\n{drop}{keys}\n"
    )
    found = export(tmp_path / "budgets.toml", "--quick")
    assert found.code == 3, found.stderr
    assert {name: candidate["status"] for name, candidate in found.candidates.items() if "source" not in name} == {
        "fp32@onnxruntime-cpu": "qualified", "int8-static@onnxruntime-cpu": "qualified"
    }, found.stderr  # fmt: skip
