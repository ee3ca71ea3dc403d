"""Small real artefacts with samples, as the stages of an export find them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from optimize.budgets import Dim, ModelBudgets
from optimize.manifest import SessionOptions, Signature, TensorSpec
from optimize.source.model_ref import ModelRef
from optimize.source.samples import Batch
from optimize.source.split_file import store_split
from tests.optimize.recipes.models import save, weight

X = TensorSpec("x", "float32", ("batch", 4))
Y = TensorSpec("y", "float32", ("batch", 4))
SIGNATURE = Signature((X,), (Y,), {"batch": Dim(1, 1, 8)})


def artefact(path: Path) -> ModelRef:
    return ModelRef(ModelBudgets(source=path.name), path.parent, SessionOptions(), path)


def identity(folder: Path) -> ModelRef:
    return written(folder, [helper.make_node("Identity", ["x"], ["y"])])


def written(folder: Path, nodes: list[onnx.NodeProto], **options: Any) -> ModelRef:
    """A model x[batch, 4] -> y[batch, 4], unless the options say otherwise."""
    inputs, outputs = options.pop("inputs", {"x": ["batch", 4]}), options.pop("outputs", {"y": ["batch", 4]})
    return artefact(save(folder / "model.onnx", nodes, inputs, outputs, options.pop("weights", None), **options))


def reals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stored(folder: Path, *batches: Any, labels: Any = None) -> Path:
    """A split of batches: arrays named x, or dicts of arrays; `labels` are cut to their rows."""
    items, start = [], 0
    for batch in batches:
        inputs = batch if isinstance(batch, dict) else {"x": batch}
        rows = len(next(iter(inputs.values())))
        items.append(Batch(inputs, None if labels is None else np.asarray(labels)[start : start + rows]))
        start += rows
    store_split(folder / "split.npz", items)
    return folder / "split.npz"


def linear(path: Path, batch: str | None = "batch", **options: Any) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return save(path, nodes, {"x": [batch, 4]}, {"y": [batch, 3]}, [weight("w", 4, 3)], **options)
