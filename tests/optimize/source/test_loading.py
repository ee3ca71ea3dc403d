import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from optimize.budgets import AccuracyBudget, Dim, InputSpec, LatencyBudget, ModelBudgets
from optimize.errors import SourceError, UserError
from optimize.source import loading
from optimize.source.split_file import read_split
from tests.optimize.model_refs import linear, reals
from tests.optimize.recipes.models import save

HERE = Path(__file__).parent
ROWS = Dim(1, 2, 5)


def custom_operator(path: Path) -> Path:
    node = helper.make_node("Foo", ["x"], ["y"], domain="my.ops")
    return save(path, [node], {"x": [1]}, {"y": [1]}, domains=("my.ops",))


def read(folder: Path, **options: Any) -> Any:
    return loading.read(ModelBudgets(source="net.onnx", **options), folder, folder)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda _: None, "no such file; `source` is relative to the budgets file"),
        (lambda path: path.write_bytes(b"\x08\x09not onnx"), "net.onnx: onnxruntime cannot open it"),
        (lambda path: path.write_bytes(linear(path).read_bytes()[:-40]), "net.onnx: onnxruntime cannot open it"),
        (lambda path: path.mkdir(), "no such file"),
        (custom_operator, "my.ops:Foo"),
    ],
)
def test_file_that_cannot_be_opened_is_reported_in_one_line(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / "net.onnx")
    with pytest.raises(SourceError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": InputSpec("float32", ("batch", 4))},
        {"x": InputSpec("float64", ("batch", 4))},
        {"x": InputSpec("float32", ("batch",))},
    ],
)
def test_declared_inputs_must_be_those_of_the_file(tmp_path: Path, inputs: dict[str, InputSpec]) -> None:
    linear(tmp_path / "net.onnx")
    with pytest.raises(SourceError, match=r"its inputs are x: float32\['batch', 4\]; budgets.toml declares others"):
        read(tmp_path, inputs=inputs, dims={"batch": ROWS})


def write_data(folder: Path, rows: int = 400, **columns: Any) -> None:
    np.savez(folder / "data.npz", **({"x": reals(rows, 4), "label": np.arange(rows) % 3} | columns))


def test_reading_counts_rows_and_repeats_itself(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    write_data(tmp_path)
    first, again = (read(tmp_path, data="data.npz") for _ in range(2))
    assert first == again
    assert sum(first.rows.values()) == 400
    assert first.rows.keys() == {"calibration", "selection", "confirmation"}
    assert {path.name for path in tmp_path.glob("*.npz")} == {
        "data.npz", "calibration.npz", "selection.npz", "confirmation.npz", "screen.npz", "probe.npz"
    }  # fmt: skip


def test_screen_is_a_part_of_the_selection_split(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    write_data(tmp_path, rows=2000)
    read(tmp_path, data="data.npz")
    screen, selection = (
        np.concatenate([batch.inputs["x"] for batch in read_split(tmp_path / f"{name}.npz")])
        for name in ("screen", "selection")
    )
    assert len(screen) == loading.PART_ROWS[loading.SCREEN]
    assert {row.tobytes() for row in screen} <= {row.tobytes() for row in selection}


def changed(change: Callable[[Path], None], folder: Path, **options: Any) -> set[str]:
    """Which digests of a reading a change of some file changes."""
    options = {"data": "data.npz"} | options
    before = read(folder, **options)
    change(folder)
    after = read(folder, **options)
    digests = ("source_digest", "data_digest", "metric_digest", "preprocess_digest")
    return {name for name in digests if getattr(before, name) != getattr(after, name)}


def test_digests_show_what_changed(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    write_data(tmp_path)
    assert changed(lambda _: None, tmp_path) == set()
    assert changed(lambda folder: write_data(folder, label=np.zeros(400)), tmp_path) == {"data_digest"}
    assert changed(lambda folder: linear(folder / "net.onnx", opset=17) and None, tmp_path) == {"source_digest"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": reals(400, 5)}, r"calibration, item 0: input 'x' has shape \[\d+, 5\]; wanted \['batch', 4\]"),
        ({"x": reals(400, 4).astype(float)}, "input 'x' has dtype float64; wanted float32"),
        ({"x": np.array([f"{i}" for i in range(400)])}, "input 'x' has dtype object; wanted float32"),
        ({"y": reals(400, 4)}, "input 'y' is not one of the model's; wanted x"),
        ({"label": np.arange(399)}, "columns have"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    linear(tmp_path / "net.onnx")
    write_data(tmp_path, **columns)
    with pytest.raises(SourceError, match=message):
        read(tmp_path, data="data.npz")


def test_model_whose_batch_has_another_name_must_declare_it(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx", batch="N")
    write_data(tmp_path)
    with pytest.raises(SourceError, match=r"wanted \['N', 4\]: .*; declare the inputs with an axis named `batch`"):
        read(tmp_path, data="data.npz")


def test_drop_needs_labels(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=reals(400, 4))
    read(tmp_path, data="data.npz", accuracy=AccuracyBudget(min_agreement=0.9))
    with pytest.raises(SourceError, match=r"has no labels, which accuracy\.max_drop needs"):
        read(tmp_path, data="data.npz", accuracy=AccuracyBudget(max_drop=0.1))


SAMPLES = """
import json, pathlib
import numpy as np
settings = json.loads((pathlib.Path(__file__).parent / "settings.json").read_text())
def samples(split):
    seed = settings[split]
    x = np.random.default_rng(seed).normal(size=(settings["rows"], 4)).astype(np.float32)
    yield {"x": x}, np.zeros(len(x), int)
"""


WIDER = """
import numpy as np
def samples(split):
    for rows, width in ((20, 4), (3, 5)):
        seed = rows + len(split)
        yield {"x": np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)}, np.zeros(rows, int)
"""


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (
            4,
            4,
            r"calibration, item 1: input 'x' has shape \[3, 5\]; .*: width is 5, its range is 4 to 4; change the sample",
        ),
        (
            5,
            9,
            r"calibration, item 0: input 'x' has shape \[20, 4\]; .*: width is 4, its range is 5 to 9; change the sample",
        ),
        (4, 5, ""),
    ],
)
def test_samples_that_serving_would_refuse_are_named_by_item_and_dim(
    tmp_path: Path, low: int, high: int, message: str
) -> None:
    linear(tmp_path / "net.onnx")
    (tmp_path / "own.py").write_text(WIDER)
    declared = {
        "inputs": {"x": InputSpec("float32", ("batch", "width"))},
        "dims": {"batch": Dim(1, 1, 2), "width": Dim(low, low, high)},
    }
    if message:
        with pytest.raises(SourceError, match=message):
            read(tmp_path, data="own.py:samples", **declared)
    else:
        assert read(tmp_path, data="own.py:samples", **declared).rows["selection"] == 23


UNEVEN = """
import numpy as np
def samples(split):
    yield {"image": np.ones((4, 4), np.float32), "scale": np.ones((3, 1), np.float32)}, np.zeros(4, int)
def none(split):
    yield {}, np.zeros(4, int)
def one_by_one(split):
    for row in range(3):
        yield {"text": np.array([f"{split} {row}"])}, np.zeros(1, int)
def lengths(columns):
    return {"x": np.array([[len(text)] * 4 for text in columns["text"]], np.float32)}
"""


def test_inputs_of_a_batch_must_agree_on_its_rows(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(UNEVEN)
    specs = {"image": InputSpec("float32", ("batch", 4)), "scale": InputSpec("float32", ("batch", 1))}
    budgets = ModelBudgets(source=f"{HERE}/modules.py:ByName", inputs=specs, dims={"batch": ROWS})
    for data, message in (
        ("own.py:samples", "calibration, item 0: input 'scale' .*: batch is 3, but 4 in input 'image'"),
        ("own.py:none", r"own.py:none\('calibration'\), item 0 has no input"),
    ):
        with pytest.raises(SourceError, match=message):
            loading.read(msgspec.structs.replace(budgets, data=data), tmp_path, tmp_path)


def test_raw_requests_need_as_many_rows_as_latency_is_budgeted_for(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    (tmp_path / "own.py").write_text(UNEVEN)
    raw = {"data": "own.py:one_by_one", "preprocess": "own.py:lengths"}
    with pytest.raises(SourceError, match=r"selection has no item of latency\.batch = 2 rows; .*: yield larger items"):
        read(tmp_path, latency=LatencyBudget(batch=2), **raw)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confirmation": 1}, "splits selection and confirmation share 20 samples; wanted disjoint splits"),
        ({"rows": 0}, r"calibration, item 0: input 'x' is empty, its shape is \[0, 4\]; wanted samples"),
    ],
)
def test_samples_that_overlap_or_are_empty_are_refused(tmp_path: Path, settings: dict[str, int], message: str) -> None:
    linear(tmp_path / "net.onnx")
    (tmp_path / "own.py").write_text(SAMPLES)
    (tmp_path / "settings.json").write_text(
        json.dumps({"calibration": 0, "selection": 1, "confirmation": 2, "rows": 20} | settings)
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path, data="own.py:samples")


def test_metric_of_the_users_own_is_digested_and_looked_for_at_once(tmp_path: Path) -> None:
    linear(tmp_path / "net.onnx")
    write_data(tmp_path)
    metric = tmp_path / "metric.py"
    metric.write_text("def score(outputs, labels): return 1.0\n")
    budget = AccuracyBudget(metric="metric.py:score", max_drop=0.1)
    assert changed(lambda _: metric.write_text("def score(o, l): return 2.0\n"), tmp_path, accuracy=budget) == {
        "metric_digest"
    }
    with pytest.raises(SourceError, match=r"metric\.py has no attribute 'missing'"):
        read(tmp_path, data="data.npz", accuracy=AccuracyBudget(metric="metric.py:missing", max_drop=0.1))


def test_code_of_preprocess_is_digested_whatever_the_source_is(tmp_path: Path) -> None:
    """An ONNX file's digest says nothing about code, and other code may make the same inputs of the samples."""
    linear(tmp_path / "net.onnx")
    code = tmp_path / "own.py"
    code.write_text(UNEVEN)
    raw = {"data": "own.py:one_by_one", "preprocess": "own.py:lengths"}
    assert changed(lambda _: code.write_text(f"{UNEVEN}\nfaster = True\n"), tmp_path, **raw) == {"preprocess_digest"}
    assert read(tmp_path).preprocess_digest == ""
