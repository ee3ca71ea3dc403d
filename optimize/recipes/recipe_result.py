"""The record that every recipe returns."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecipeResult:
    """What a recipe made.

    files: the model first, then its external data.
    changed: nodes that really changed precision, counted from the finished graph.
    notes: what a reader of the report should know, for example what stayed in fp32.
    """

    files: tuple[Path, ...]
    changed: int
    notes: tuple[str, ...] = ()
