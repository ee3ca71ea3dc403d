"""Tournaments and candidates without any export: nothing was measured of them yet."""

from pathlib import Path
from typing import Any

from optimize.budgets import ModelBudgets
from optimize.execution.keys import DigestedPath
from optimize.manifest import SessionOptions
from optimize.source.loading import Source
from optimize.source.model_ref import ModelRef
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament
from tests.optimize.execution.test_stage_runner import runner
from tests.optimize.model_refs import SIGNATURE


def candidate(precision: str = "fp32", *, threads: int = 1, **found: Any) -> Candidate:
    model_ref = ModelRef(ModelBudgets(source="m.onnx"), Path(), SessionOptions(threads=threads), digest="digest")
    return Candidate(f"{precision}@onnxruntime-cpu", precision, "onnxruntime-cpu", model_ref, **found)


def tournament(folder: Path, *, budgets: ModelBudgets, cores: int = 2) -> Tournament:
    return Tournament(
        runner=runner(folder, cores=cores, budgets=budgets),
        source=Source("s", "d", {}, "onnxruntime-cpu", "", ""),
        signature=SIGNATURE,
        samples=folder,
        digests={},
        graph=DigestedPath(folder / "baseline.onnx", "b"),
        baseline=candidate("source"),
    )
