"""Write a first budgets.toml for a model: all that its signature shows, and comments on the rest."""

import inspect
import json
import os
import re
from pathlib import Path

import msgspec

from optimize.budgets import BATCH
from optimize.errors import ArtifactError, SourceError
from optimize.manifest import SessionOptions, TensorSpec
from optimize.runtime.session import OnnxSession
from optimize.source.model import load_module

_HEAD = """\
# When not to optimise yet:
#   - the model still changes every week: a budget that moves with it proves nothing;
#   - nobody can say what a wrong answer costs: without max_drop there is nothing to check a cheaper variant against;
#   - there are fewer than about 500 labelled samples that training never saw: every accuracy verdict would be INCONCLUSIVE;
#   - the time goes elsewhere (preprocessing, the network, the database): measure that first.
# Otherwise: delete the budgets that you do not need, set the others from what the product needs, and run
#   optimize export --budget {file}
schema = 1
registry = "artifacts"

[models.{name}]
source = {source}
data = {data}   # samples(split) -> iterable of (dict of arrays, labels); or a .npz or .parquet file with a column `label`
targets = ["cpu"]                # cpu | cuda | tensorrt | tensorrt-rtx
objective = "latency"            # what to improve among those that qualify: latency | throughput | memory | size | cost
"""

_BUDGETS = """
[models.{name}.accuracy]
metric = "top1"                  # top1 | f1 | auc | mae | rmse | spearman, or "file.py:attr"
max_drop = 0.01                  # absolute, against the source model on the same samples
min_agreement = 0.97             # share of answers that must equal the source model's

[models.{name}.latency]            # one request of `batch` rows at the `opt` dims, in process
batch = 1
p99_ms = 50.0

[models.{name}.speed]
min_speedup = 1.5                # rows per second against the source model on the same threads
"""


def budgets_toml(model: str, base: Path, output: Path) -> str:
    """The text of the budgets file `output` for a .onnx file, or for "file.py:attr" that names an nn.Module or its factory.

    `model` is relative to `base`; in the file it is relative to the file's folder, as all paths there are.

    Raises:
        SourceError: The model cannot be opened.
    """
    place, _, attr = model.rpartition(":") if not model.endswith(".onnx") else (model, "", "")
    specs = _python(model, base) if attr else _with_batch(_onnx(base / model))
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(place).stem).strip("-") or "model"
    if place.endswith((".onnx", ".py")) and not Path(place).is_absolute():
        place = os.path.relpath(base / place, (base / output).parent)
    source, data = (f"{place}:{attr}", f"{place}:samples") if attr else (place, "samples.npz")
    return (
        _HEAD.format(name=name, source=_text(source), data=_text(data), file=output)
        + _inputs(name, specs)
        + _dims(name, specs)
        + _BUDGETS.format(name=name)
    )


def _onnx(path: Path) -> tuple[TensorSpec, ...]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; name a .onnx file, or a module as file.py:attr")
    try:
        with OnnxSession(path, SessionOptions()) as session:
            return session.inputs
    except ArtifactError as error:
        raise SourceError(str(error)) from None


def _with_batch(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Name the leading dimension `batch` if all inputs share it."""
    leading = {spec.shape[:1] for spec in specs}
    if len(leading) > 1 or any(BATCH in spec.shape for spec in specs):
        return specs
    called = next(iter(leading), ())
    return tuple(
        msgspec.structs.replace(
            spec, shape=tuple(BATCH if isinstance(axis, str) and axis in called else axis for axis in spec.shape)
        )
        for spec in specs
    )


def _python(model: str, base: Path) -> tuple[TensorSpec, ...]:
    """One input per parameter of `forward`, whose shapes are unknown."""
    module = load_module(model, base)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in kinds and p.default is p.empty
    ]
    return tuple(TensorSpec(name, "float32", (BATCH, 1)) for name in names)


def _inputs(name: str, specs: tuple[TensorSpec, ...]) -> str:
    lines = [
        "",
        "# Check dtype and shape: names are dynamic dimensions, `batch` is the one that requests are joined along.",
    ]
    for spec in specs:
        shape = ", ".join(str(axis) if isinstance(axis, int) else f'"{axis}"' for axis in spec.shape)
        lines += [f"[models.{name}.inputs.{_key(spec.name)}]", f'dtype = "{spec.dtype}"', f"shape = [{shape}]"]
    return "\n".join(lines) + "\n"


def _dims(name: str, specs: tuple[TensorSpec, ...]) -> str:
    dims = sorted(
        {axis for spec in specs for axis in spec.shape if isinstance(axis, str)}, key=lambda axis: (axis != BATCH, axis)
    )
    if not dims:
        return ""
    lines = [f"[models.{name}.dims]"]
    lines += [
        f"{_key(dim)} = {{ min = 1, opt = {1 if dim == BATCH else 16}, max = {32 if dim == BATCH else 128} }}"
        for dim in dims
    ]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(value: str) -> str:
    """A TOML string, whose escapes are JSON's."""
    return json.dumps(value, ensure_ascii=False)
