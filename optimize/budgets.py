"""The typed schema of budgets.toml, and its loader.

:func:`load` reports all problems of a file at once. :func:`limits` flattens a model's budgets to the keys that verdicts carry.
"""

import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from optimize.errors import BudgetsError

Precision = Literal["fp32", "fp16", "int8-dynamic", "int8-static"]
Target = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
Objective = Literal["latency", "throughput", "memory", "size", "cost"]

BATCH = "batch"
_MOST_NAME_BYTES = 200
DEFAULT_CONFIDENCE = 0.95
BUILT_IN_METRICS = ("top1", "f1", "auc", "mae", "rmse", "spearman")

Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Axis = Text | Count
Dtype = Literal[
    "bool",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "object",
]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Dim(Record, frozen=True):
    """The range of one dynamic dimension; `opt` is the size that latency is measured at."""

    min: Count = 1
    opt: Count = 1
    max: Count = 1


class InputSpec(Record, frozen=True):
    """A declared input: numpy dtype name ("object" for strings), axes (names are dynamic), the value that fills padding."""

    dtype: Dtype
    shape: tuple[Axis, ...]
    pad: float | None = None


class OutputSpec(Record, frozen=True):
    """A declared output: its axes, if running 1, 2 and 3 rows would not show them."""

    shape: tuple[Axis, ...]


class AccuracyBudget(Record, frozen=True):
    """What may be lost, against the source model on the same samples."""

    metric: str = "top1"
    output: str | None = None
    max_drop: Annotated[float, Meta(ge=0)] | None = None
    min_agreement: Share | None = None
    confidence: Annotated[float, Meta(gt=0.5, lt=1)] = DEFAULT_CONFIDENCE


class LatencyBudget(Record, frozen=True):
    """Milliseconds of one in-process request of `batch` rows at the `opt` dims."""

    batch: Count = 1
    p50_ms: Positive | None = None
    p99_ms: Positive | None = None


class MemoryBudget(Record, frozen=True):
    """Megabytes (10^6 bytes) of peak resident memory of a fresh process that serves the artefact."""

    peak_mb: Positive | None = None


class ThroughputBudget(Record, frozen=True):
    """Requests per second at Poisson arrivals, and the p99 they keep."""

    qps: Positive | None = None
    p99_ms: Positive | None = None


class SizeBudget(Record, frozen=True):
    """Megabytes (10^6 bytes) of the artefact's files."""

    mb: Positive | None = None


class SpeedBudget(Record, frozen=True):
    """Ratios measured in one interleaved run, which hold on any machine."""

    min_speedup: Positive | None = None
    max_slowdown: Positive | None = None


class CostBudget(Record, frozen=True):
    """Prices of a core and a GPU, and what a million rows may cost."""

    per_hour: dict[Literal["cpu", "cuda"], Positive] = {}
    max_per_million: Positive | None = None


class ModelBudgets(Record, frozen=True):
    """One `[models.NAME]` table."""

    source: Text
    data: Text | None = None
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)] = ("cpu",)
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)] | None = None
    compute_capabilities: tuple[str, ...] = ()
    preprocess: str | None = None
    batch_invariant: bool = False
    objective: Objective = "latency"
    inputs: dict[str, InputSpec] = {}
    outputs: dict[str, OutputSpec] = {}
    dims: dict[str, Dim] = {}
    accuracy: AccuracyBudget = AccuracyBudget()
    latency: LatencyBudget = LatencyBudget()
    memory: MemoryBudget = MemoryBudget()
    throughput: ThroughputBudget = ThroughputBudget()
    size: SizeBudget = SizeBudget()
    speed: SpeedBudget = SpeedBudget()
    cost: CostBudget = CostBudget()


class Budgets(Record, frozen=True):
    """The whole file."""

    schema: Literal[1]
    models: dict[str, ModelBudgets]
    registry: Text = "artifacts"


class Limit(Record, frozen=True):
    """One budget: its key in the file, its value, and whether more or less of the quantity is better."""

    key: str
    value: float
    better: Literal["lower", "higher"]


_HIGHER_IS_BETTER = frozenset({"accuracy.min_agreement", "throughput.qps", "speed.min_speedup"})
_LIMIT_KEYS = (
    "accuracy.max_drop",
    "accuracy.min_agreement",
    "latency.p50_ms",
    "latency.p99_ms",
    "memory.peak_mb",
    "throughput.qps",
    "throughput.p99_ms",
    "size.mb",
    "speed.min_speedup",
    "speed.max_slowdown",
    "cost.max_per_million",
)


def limits(model: ModelBudgets) -> tuple[Limit, ...]:
    """Every budget that the model declares, in the order of the sections."""
    found = []
    for key in _LIMIT_KEYS:
        section, field = key.split(".")
        value = getattr(getattr(model, section), field)
        if value is not None:
            found.append(Limit(key, float(value), "higher" if key in _HIGHER_IS_BETTER else "lower"))
    return tuple(found)


def chosen(budgets: Budgets, names: Sequence[str], origin: Path) -> tuple[str, ...]:
    """The models that were asked for, each once; all models of the file if none was named.

    Raises:
        BudgetsError: A named model is not in the file.
    """
    unknown = [name for name in names if name not in budgets.models]
    if unknown:
        raise BudgetsError(f"model {', '.join(unknown)} is not in {origin}; it declares {', '.join(budgets.models)}")
    return tuple(dict.fromkeys(names or budgets.models))


def load(path: Path) -> Budgets:
    """Read and check a budgets file.

    Raises:
        BudgetsError: The file is missing, is not TOML, or has problems, all of which the message lists.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BudgetsError(
            f"{path}: no such file; write one with `optimize init MODEL`, or name yours with --budget"
        ) from None
    except IsADirectoryError:
        raise BudgetsError(f"{path}: is a folder, wanted a budgets.toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BudgetsError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise BudgetsError(f"{path}: cannot be read: {error.strerror}") from None
    problems: list[str] = []
    _check_table(Budgets, table, "", problems)
    if not problems:
        budgets = msgspec.convert(table, Budgets, strict=True)
        for name, model in budgets.models.items():
            problems.extend(f"models.{name}.{problem}" for problem in _contradictions(name, model))
        if not budgets.models:
            problems.append("models: no model is declared; add a [models.NAME] table")
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BudgetsError(f"{path}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))
    return budgets


def _check_table(schema: type[Struct], table: Mapping[str, object], prefix: str, problems: list[str]) -> None:
    """Collect every unknown key, missing key and wrong value of `table`, at all depths."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    for key in sorted(table.keys() - fields.keys()):
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        known = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(fields))}"
        problems.append(f"{prefix}{key}: unknown key; {known}")
    for key, field in fields.items():
        if key in table:
            _check_value(field.type, table[key], f"{prefix}{key}", problems)
        elif field.required:
            problems.append(f"{prefix}{key}: missing; this key is required")


def _check_value(kind: Any, value: object, key: str, problems: list[str]) -> None:
    if isinstance(kind, types.UnionType):
        kind = next((arm for arm in typing.get_args(kind) if _is_struct(arm)), kind)
    if _is_struct(kind):
        if isinstance(value, dict):
            _check_table(kind, value, f"{key}.", problems)
        else:
            problems.append(f"{key} = {value!r}: wanted a table")
        return
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        name_kind, entry_kind = typing.get_args(kind)
        for name, entry in value.items():
            # Names are free, or one of a few; another name is reported as an unknown key.
            if typing.get_origin(name_kind) is Literal and name not in typing.get_args(name_kind):
                problems.append(f"{key}.{name}: unknown key; known keys: {', '.join(typing.get_args(name_kind))}")
            else:
                _check_value(entry_kind, entry, f"{key}.{name}", problems)
        return
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{key} = {value!r}: wanted a finite number")
        return
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        problems.append(f"{key} = {value!r}: {_wanted(str(error), kind)}")


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


# What a user calls the types that msgspec names.
_PLAIN_WORDS = {
    "float": "number",
    "int": "whole number",
    "str": "text",
    "bool": "true or false",
    "array": "list",
    "object": "table",
}


def _wanted(message: str, kind: object) -> str:
    choices = _choices(kind)
    if "enum value" in message and choices:
        return f"wanted {'one of ' if len(choices) > 1 else ''}{', '.join(map(str, choices))}"
    text = message.split(" - at", maxsplit=1)[0].replace(" | null", "").replace("Expected", "wanted").replace("`", "")
    return re.sub(rf"\b({'|'.join(_PLAIN_WORDS)})\b", lambda match: _PLAIN_WORDS[match[0]], text)


def _choices(kind: object) -> tuple[object, ...]:
    """The values of the Literal inside a type, at any depth."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return arguments
    return next((choices for argument in arguments if (choices := _choices(argument))), ())


def _contradictions(name: str, model: ModelBudgets) -> list[str]:
    """Contradictions between keys, each of which is valid alone."""
    accuracy, cost, throughput = model.accuracy, model.cost, model.throughput
    judged = accuracy.max_drop is not None or accuracy.min_agreement is not None
    known = ":" in accuracy.metric or accuracy.metric in BUILT_IN_METRICS
    checks = [
        (
            not limits(model),
            "budgets: none is declared; declare at least one, such as accuracy.max_drop or latency.p99_ms",
        ),
        (judged and model.data is None, "data: missing; an accuracy budget needs samples to be judged on"),
        (
            model.preprocess is not None and model.data is None,
            "data: missing; `preprocess` needs raw columns, to be measured with and recorded",
        ),
        (
            throughput.p99_ms is not None and throughput.qps is None,
            "throughput.qps: missing; throughput.p99_ms is the p99 at a declared rate",
        ),
        (
            cost.max_per_million is not None and not cost.per_hour,
            "cost.per_hour: missing; cost.max_per_million needs a price, such as { cpu = 0.04 }",
        ),
        (
            model.objective == "memory" and model.memory.peak_mb is None,
            "objective = 'memory': wanted memory.peak_mb as well, since memory is measured for a budget only",
        ),
        (
            model.objective == "cost" and not cost.per_hour,
            "objective = 'cost': wanted cost.per_hour as well, a price such as { cpu = 0.04 }",
        ),
        (
            not known,
            f"accuracy.metric = {accuracy.metric!r}: wanted one of {', '.join(BUILT_IN_METRICS)}, or file.py:attr",
        ),
    ]
    return [*_name_problems(name), *(problem for wrong, problem in checks if wrong), *_dim_problems(model)]


def _name_problems(name: str) -> list[str]:
    if not name or not all(c.isalnum() or c in "_-." for c in name) or name.startswith("."):
        return ["name: wanted letters, digits, `_`, `-` and `.` only, since it names a folder and a gRPC model"]
    if len(name.encode()) > _MOST_NAME_BYTES:
        return [f"name: wanted at most {_MOST_NAME_BYTES} bytes, since it names a folder"]
    return []


def _dim_problems(model: ModelBudgets) -> list[str]:
    problems = [
        f"dims.{dim} = {{min={size.min}, opt={size.opt}, max={size.max}}}: wanted min <= opt <= max"
        for dim, size in model.dims.items()
        if not size.min <= size.opt <= size.max
    ]
    named = {axis for spec in model.inputs.values() for axis in spec.shape if isinstance(axis, str)}
    problems.extend(
        f"dims.{axis}: missing, though an input has an axis of that name; add `{axis} = {{ min = 1, opt = .., max = .. }}`"
        for axis in sorted(named - model.dims.keys())
    )
    if model.inputs:
        problems.extend(
            f"dims.{dim}: no input has an axis of that name; wanted one of {', '.join(sorted(named)) or 'none'}"
            for dim in sorted(model.dims.keys() - named)
        )
    shapes = {f"inputs.{name}": spec.shape for name, spec in model.inputs.items()}
    shapes |= {f"outputs.{name}": spec.shape for name, spec in model.outputs.items()}
    problems.extend(
        f"{key}.shape: wanted the axis `{BATCH}` once, along which requests are joined"
        for key, shape in shapes.items()
        if shape.count(BATCH) > 1
    )
    rows = model.dims.get(BATCH)
    if rows is not None and not rows.min <= model.latency.batch <= rows.max:
        problems.append(
            f"latency.batch = {model.latency.batch}: wanted a size within dims.batch, which goes from {rows.min} to {rows.max}"
        )
    return problems
