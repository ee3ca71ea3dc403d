"""Write a first budgets.toml for a model: everything that its signature tells, and comments on the rest."""

import inspect
from pathlib import Path

from optimize.budgets import BATCH
from optimize.errors import ArtifactError, SourceError
from optimize.manifest import SessionOptions, TensorSpec
from optimize.runtime.session import OnnxSession
from optimize.source.imports import attribute

_HEAD = """\
# When not to optimise yet:
#   - the model still changes every week: a budget that moves with it proves nothing;
#   - nobody can say what a wrong answer costs: without max_drop there is nothing to hold a cheaper variant to;
#   - there are fewer than about 500 labelled samples that training never saw: every accuracy verdict would be INCONCLUSIVE;
#   - the time goes elsewhere (preprocessing, the network, the database): measure that first.
# Otherwise: delete the budgets that you do not need, set the others from what the product needs, and run
#   optimize export --budget {file}
schema = 1
registry = "artifacts"

[models.{name}]
source = "{source}"
data = "{data}"   # samples(split) -> iterable of (dict of arrays, labels); or a .npz or .parquet file with a column `label`
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
min_speedup = 1.5                # rows a second against the source model on the same threads
"""


def budgets_toml(model: str, base: Path, file: str) -> str:
    """The text of a budgets file for a .onnx file, or for "file.py:attr" that names an nn.Module or its factory.

    Raises:
        SourceError: The model cannot be opened.
    """
    place, _, attr = model.partition(":")
    name = Path(place).stem.replace(" ", "-")
    specs = _onnx(base / model) if model.endswith(".onnx") else _python(model, base)
    data = f"{place}:samples" if attr else "samples.npz"
    return (
        _HEAD.format(name=name, source=model, data=data, file=file)
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


def _python(model: str, base: Path) -> tuple[TensorSpec, ...]:
    """One input per parameter of `forward`; what shapes they have, no signature tells."""
    found = attribute(model, base)
    module = found if hasattr(found, "forward") or not callable(found) else found()
    if not hasattr(module, "forward"):
        raise SourceError(f"{model}: gave {type(module).__name__}; wanted a torch.nn.Module")
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
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
