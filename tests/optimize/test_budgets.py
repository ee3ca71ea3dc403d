from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize import budgets
from optimize.budgets import (
    AccuracyBudget,
    Budgets,
    CostBudget,
    LatencyBudget,
    MemoryBudget,
    ModelBudgets,
    SizeBudget,
    SpeedBudget,
    ThroughputBudget,
    limits,
)
from optimize.errors import BudgetsError, Exit

VALID = """
schema = 1
[models.digits]
source = "digits.onnx"
{model}
[models.digits.size]
mb = 1
{tables}
"""


def loaded(folder: Path, text: str) -> Budgets:
    path = folder / "budgets.toml"
    path.write_text(text, encoding="utf-8")
    return budgets.load(path)


def problems(folder: Path, text: str) -> list[str]:
    """The problems that a file is refused with, one a line, without the line that counts them."""
    with pytest.raises(BudgetsError) as caught:
        loaded(folder, text)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{folder / 'budgets.toml'}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return [line.strip() for line in lines]


def model_problems(folder: Path, model: str = "", tables: str = "") -> list[str]:
    return problems(folder, VALID.format(model=model, tables=tables))


def test_least_file_has_the_documented_defaults(tmp_path: Path) -> None:
    file = loaded(tmp_path, VALID.format(model="", tables=""))
    model = file.models["digits"]
    assert file.registry == "artifacts"
    assert (model.targets, model.precisions, model.objective) == (("cpu",), None, "latency")
    assert (model.accuracy.metric, model.accuracy.confidence, model.latency.batch) == ("top1", 0.95, 1)


def test_own_budgets_file_loads() -> None:
    assert budgets.load(Path(__file__).parents[2] / "budgets.toml").models["digits"].accuracy.max_drop == 0.02


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("regstry = 'x'\nschema = 1\n[models.a]\nsource = 'a.onnx'\nsize.mb = 1", "regstry", "registry"),
        ("schema = 1\n[models.a]\nsource = 'a.onnx'\nsize.mb = 1\nlatncy.p99_ms = 3", "models.a.latncy", "latency"),
        ("schema = 1\n[models.a]\nsource = 'a.onnx'\nlatency.p99ms = 3", "models.a.latency.p99ms", "p99_ms"),
        (
            "schema = 1\n[models.a]\nsource = 'a.onnx'\nsize.mb = 1\ndims.batch = { min = 1, maxx = 3 }",
            "models.a.dims.batch.maxx",
            "max",
        ),
        (
            "schema = 1\n[models.a]\nsource = 'a.onnx'\nsize.mb = 1\ninputs.x = { dtype = 'int8', shap = [], shape = [] }",
            "models.a.inputs.x.shap",
            "shape",
        ),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, text: str, key: str, nearest: str) -> None:
    assert f"{key}: unknown key; did you mean `{nearest}`?" in problems(tmp_path, text)


def test_unknown_key_that_is_near_to_none_lists_the_known_ones(tmp_path: Path) -> None:
    (problem,) = model_problems(tmp_path, tables="[models.digits.speed]\nqqq = 1")
    assert problem == "models.digits.speed.qqq: unknown key; known keys: max_slowdown, min_speedup"


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ("[models.digits.latency]\np99_ms = '5'", "latency.p99_ms = '5': wanted number, got text"),
        ("[models.digits.latency]\np99_ms = true", "latency.p99_ms = True: wanted number, got true or false"),
        ("[models.digits.latency]\np99_ms = 0", "latency.p99_ms = 0: wanted number > 0.0"),
        ("[models.digits.latency]\np99_ms = inf", "latency.p99_ms = inf: wanted a finite number"),
        ("[models.digits.latency]\np99_ms = nan", "latency.p99_ms = nan: wanted a finite number"),
        ("[models.digits.latency]\nbatch = 1.5", "latency.batch = 1.5: wanted whole number, got number"),
        ("[models.digits.latency]\nbatch = 0", "latency.batch = 0: wanted whole number >= 1"),
        ("[models.digits.accuracy]\nmin_agreement = 97", "accuracy.min_agreement = 97: wanted number <= 1.0"),
        ("[models.digits.accuracy]\nconfidence = 0.5", "accuracy.confidence = 0.5: wanted number > 0.5"),
        ("[models.digits.accuracy]\nmax_drop = -0.1", "accuracy.max_drop = -0.1: wanted number >= 0.0"),
        ("[models.digits.cost]\nper_hour = { cpu = 0 }", "cost.per_hour.cpu = 0: wanted number > 0.0"),
        ("[models.digits.cost]\nper_hour = { gpu = 1 }", "cost.per_hour.gpu: unknown key; known keys: cpu, cuda"),
        ("[models.digits.dims]\nbatch = 4", "dims.batch = 4: wanted a table"),
        ("[models.digits.inputs.x]\nshape = [1]", "inputs.x.dtype: missing; this key is required"),
        (
            "[models.digits.inputs.x]\ndtype = 'int8'\nshape = ['batch', 0]",
            "inputs.x.shape = ['batch', 0]: wanted whole number >= 1",
        ),
    ],
)
def test_wrong_value_names_its_full_key_the_value_and_what_was_wanted(
    tmp_path: Path, tables: str, problem: str
) -> None:
    assert f"models.digits.{problem}" in model_problems(tmp_path, tables=tables)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("targets = ['gpu']", "targets = ['gpu']: wanted one of cpu, cuda, tensorrt, tensorrt-rtx"),
        ("targets = []", "targets = []: wanted list of length >= 1"),
        ("precisions = ['int8']", "precisions = ['int8']: wanted one of fp32, fp16, int8-dynamic, int8-static"),
        ("precisions = []", "precisions = []: wanted list of length >= 1"),
        ("objective = 'speed'", "objective = 'speed': wanted one of latency, throughput, memory, size, cost"),
        ("batch_invariant = 1", "batch_invariant = 1: wanted true or false, got whole number"),
        ("data = ''", "data = '': wanted text of length >= 1"),
        ("accuracy.metric = 'top5'", "accuracy.metric = 'top5': wanted one of top1, f1, auc, mae, rmse, spearman, or file.py:attr"),
    ],
)  # fmt: skip
def test_wrong_choice_lists_the_choices(tmp_path: Path, model: str, problem: str) -> None:
    assert f"models.digits.{problem}" in model_problems(tmp_path, model=model)


def test_other_schema_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, "schema = 2\n[models.a]\nsource = 'a.onnx'\nsize.mb = 1") == ["schema = 2: wanted 1"]


def test_all_problems_of_all_models_are_reported_at_once(tmp_path: Path) -> None:
    text = """
        extra = 1
        [models.a]
        sorce = "a.onnx"
        latency.p99_ms = -1
        [models.b]
        source = 3
        dims.batch = { min = 0 }
        """
    assert problems(tmp_path, text) == [
        "extra: unknown key; known keys: models, registry, schema",
        "schema: missing; this key is required",
        "models.a.sorce: unknown key; did you mean `source`?",
        "models.a.source: missing; this key is required",
        "models.a.latency.p99_ms = -1: wanted number > 0.0",
        "models.b.source = 3: wanted text, got whole number",
        "models.b.dims.batch.min = 0: wanted whole number >= 1",
    ]


INPUT = "[models.digits.inputs.x]\ndtype = 'float32'\nshape = ['batch', 4]\n"
NEEDS_SAMPLES = "data: missing; an accuracy budget needs samples to be judged on"


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ("accuracy.max_drop = 0.1", NEEDS_SAMPLES),
        ("accuracy.min_agreement = 0.9", NEEDS_SAMPLES),
        ("preprocess = 'own.py:tokens'", "data: missing; `preprocess` needs raw columns"),
        ("outputs.y.shape = ['batch', 'batch']", "outputs.y.shape: wanted the axis `batch` once"),
        ("throughput.p99_ms = 5", "throughput.qps: missing"),
        ("cost.max_per_million = 1", "cost.per_hour: missing"),
        ("objective = 'memory'", "objective = 'memory': wanted memory.peak_mb as well"),
        ("objective = 'cost'", "objective = 'cost': wanted cost.per_hour as well"),
        ("dims.time = { min = 4, opt = 2, max = 8 }", "dims.time = {min=4, opt=2, max=8}: wanted min <= opt <= max"),
        (
            "dims.batch = { max = 8 }\nlatency.batch = 16",
            "latency.batch = 16: wanted a size within dims.batch, which goes from 1 to 8",
        ),
        (
            "dims.batch = { min = 2, opt = 2, max = 8 }",
            "latency.batch = 1: wanted a size within dims.batch, which goes from 2 to 8",
        ),
    ],
)
def test_contradiction_is_refused(tmp_path: Path, tables: str, problem: str) -> None:
    (found,) = model_problems(tmp_path, model=tables)
    assert found.startswith(f"models.digits.{problem}")


def test_axes_of_inputs_and_dims_must_match(tmp_path: Path) -> None:
    missing, unknown = model_problems(tmp_path, "dims.bacth = {}", INPUT)
    assert missing.startswith("models.digits.dims.batch: missing, though an input has an axis of that name")
    assert unknown == "models.digits.dims.bacth: no input has an axis of that name; wanted one of batch"


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "ä/b"])
def test_name_that_no_folder_can_have_is_refused(tmp_path: Path, name: str) -> None:
    text = f'schema = 1\n[models."{name}"]\nsource = "a.onnx"\nsize.mb = 1'
    assert problems(tmp_path, text)[0].startswith(f"models.{name}.name: wanted letters")


def test_name_that_is_too_long_for_a_folder_is_refused(tmp_path: Path) -> None:
    text = "schema = 1\n[models.{}]\nsource = 'a.onnx'\nsize.mb = 1"
    assert "name: wanted at most 200 bytes" in problems(tmp_path, text.format("a" * 201))[0]
    assert loaded(tmp_path, text.format("a" * 200)).models


def test_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert loaded(tmp_path, "\ufeff" + VALID.format(model="", tables="")).models


def test_model_without_any_budget_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "schema = 1\n[models.a]\nsource = 'a.onnx'\n[models.a.latency]\nbatch = 1")
    assert problem.startswith("models.a.budgets: none is declared")


@pytest.mark.parametrize("text", ["schema = 1\n[models]", "schema = 1\nmodels = {}"])
def test_file_without_models_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == ["models: no model is declared; add a [models.NAME] table"]


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetsError, match=r"not valid TOML: Cannot declare \('models', 'digits'\) twice"):
        loaded(tmp_path, VALID.format(model="", tables="[models.digits]\nsource = 'other.onnx'"))


def test_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BudgetsError, match=r"no such file; write one with `optimize init MODEL`") as caught:
        budgets.load(tmp_path / "budgets.toml")
    assert caught.value.exit_code == Exit.USAGE


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetsError, match=r"is a folder, wanted a budgets\.toml file"):
        budgets.load(tmp_path)


@pytest.mark.parametrize("content", [b"schema = ", b"\xff\xfe\x00", b"{}", b"a = " + b"[" * 5000])
def test_text_that_is_not_toml_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "budgets.toml"
    path.write_bytes(content)
    with pytest.raises(BudgetsError, match="not valid TOML") as caught:
        budgets.load(path)
    assert len(str(caught.value).splitlines()) == 1


positive = st.floats(min_value=1e-6, max_value=1e9)
share = st.floats(min_value=0, max_value=1)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


models = st.builds(
    ModelBudgets,
    source=st.just("m.onnx"),
    data=st.just("m.npz"),
    objective=st.sampled_from(["latency", "throughput", "memory", "size", "cost"]),
    accuracy=st.builds(AccuracyBudget, max_drop=maybe(share), min_agreement=maybe(share)),
    latency=st.builds(LatencyBudget, batch=st.integers(1, 64), p50_ms=maybe(positive), p99_ms=maybe(positive)),
    memory=st.builds(MemoryBudget, peak_mb=maybe(positive)),
    throughput=st.builds(ThroughputBudget, qps=maybe(positive), p99_ms=maybe(positive)),
    size=st.builds(SizeBudget, mb=maybe(positive)),
    speed=st.builds(SpeedBudget, min_speedup=maybe(positive), max_slowdown=maybe(positive)),
    cost=st.builds(CostBudget, max_per_million=maybe(positive)),
)


def declared(model: ModelBudgets) -> dict[str, float]:
    """Every number under its key, found without the module's own list of keys."""
    sections = ("accuracy", "latency", "memory", "throughput", "size", "speed", "cost")
    tables = {section: msgspec.structs.asdict(getattr(model, section)) for section in sections}
    others = {"accuracy.confidence", "latency.batch"}
    return {
        f"{section}.{key}": value
        for section, table in tables.items()
        for key, value in table.items()
        if isinstance(value, int | float) and f"{section}.{key}" not in others
    }


@given(models)
def test_limits_are_exactly_the_declared_budgets(model: ModelBudgets) -> None:
    assert {limit.key: limit.value for limit in limits(model)} == declared(model)


def test_higher_is_better_for_agreement_rate_and_speedup_alone() -> None:
    every = ModelBudgets(
        source="m.onnx",
        accuracy=AccuracyBudget(max_drop=1, min_agreement=1),
        latency=LatencyBudget(p50_ms=1, p99_ms=1),
        memory=MemoryBudget(peak_mb=1),
        throughput=ThroughputBudget(qps=1, p99_ms=1),
        size=SizeBudget(mb=1),
        speed=SpeedBudget(min_speedup=1, max_slowdown=1),
        cost=CostBudget(max_per_million=1),
    )
    higher = {limit.key for limit in limits(every) if limit.better == "higher"}
    assert higher == {"accuracy.min_agreement", "throughput.qps", "speed.min_speedup"}
    assert len(limits(every)) == 11


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["source", "latency", "batch", "dims", "x"])
    return st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3)


plain = st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("ab\n", max_size=3)


@given(value=st.recursive(plain, nested, max_leaves=6))
def test_model_of_any_shape_is_refused_by_a_sentence(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(f"schema = 1\nmodels.a = {as_toml(value)}\n")
    with pytest.raises(BudgetsError, match=r"problems?\n  models\.a"):
        budgets.load(path)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


def test_requested_models_are_chosen_once_and_all_by_default(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text("schema = 1\n" + "".join(f'[models.{n}]\nsource = "m.onnx"\nsize.mb = 1.0\n' for n in "ab"))
    found = budgets.load(path)
    assert budgets.chosen(found, (), path) == ("a", "b")
    assert budgets.chosen(found, ("b", "b"), path) == ("b",)
    with pytest.raises(BudgetsError, match=r"^model c is not in .*budgets\.toml; it declares a, b$"):
        budgets.chosen(found, ("a", "c"), path)
