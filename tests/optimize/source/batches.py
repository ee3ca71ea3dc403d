"""Signatures and batches for the tests of samples."""

from typing import Any

import numpy as np

from optimize.manifest import Signature, TensorSpec
from optimize.source.samples import Batch

X = Signature((TensorSpec("x", "float32", ("batch", 4)),), ())
LAST = Signature((TensorSpec("x", "float32", (4, "batch")),), ())
ALONE = Signature((TensorSpec("x", "float32", (4,)),), ())
MIXED = Signature((*X.inputs, TensorSpec("scale", "float32", ())), ())


def values(rows: int = 1000, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def batch(rows: int, labels: Any = None, seed: int = 0) -> Batch:
    return Batch({"x": values(rows, seed=seed)}, labels)
