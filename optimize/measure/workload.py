"""Real requests of one shape, different from call to call, and the time of one call."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from optimize.arrays import Arrays
from optimize.budgets import BATCH
from optimize.manifest import Signature
from optimize.runtime.session import Session
from optimize.source.shaping import shaped
from optimize.source.split_file import read_split

DIFFERENT = 64
"""Inputs in rotation. A single one would sit in the cache and take the same branches every time."""


def opt_sizes(signature: Signature, batch: int) -> dict[str, int]:
    """The `opt` size of every dynamic dimension, at `batch` rows."""
    sizes = {name: dim.opt for name, dim in signature.dims.items()}
    return sizes | {BATCH: batch} if BATCH in sizes else sizes


def requests(signature: Signature, split: Path, sizes: Mapping[str, int], different: int = DIFFERENT) -> list[Arrays]:
    """Different requests of these sizes, cut from the real samples of a split (zeros if the model has none)."""
    batches = read_split(split) if split.exists() else []
    return [shaped(signature.inputs, batches, sizes, offset) for offset in range(different)]


def timed(session: Session, rotation: Iterator[Arrays]) -> float:
    """Milliseconds of one call with the next request."""
    arrays = next(rotation)
    start = time.perf_counter_ns()
    session.run(arrays)
    return (time.perf_counter_ns() - start) / 1e6
