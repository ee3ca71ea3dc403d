"""What a stage measures: the source model, or an artefact's file. Both take and return arrays by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from optimize.budgets import ModelBudgets
from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession, Session, instances
from optimize.source.model import is_onnx, load_torch


class ModelRef(Struct, frozen=True):
    """An artefact (where `path` is given) or the source model, and how it is opened."""

    budgets: ModelBudgets
    base: Path
    options: SessionOptions
    path: Path | None = None


@contextmanager
def opened(model_ref: ModelRef) -> Iterator[Session]:
    """Open a model; artefacts and ONNX sources are opened in the session that serves them."""
    path = model_ref.path or (model_ref.base / model_ref.budgets.source if is_onnx(model_ref.budgets) else None)
    if path is None:
        yield load_torch(model_ref.budgets, model_ref.base, model_ref.options.threads)
        return
    with OnnxSession(path, model_ref.options) as session:
        yield session


@contextmanager
def opened_instances(model_ref: ModelRef, count: int) -> Iterator[Sequence[Session]]:
    """`count` sessions of an artefact, as serving opens them; the source model is not served, and has only one."""
    if model_ref.path is None:
        with opened(model_ref) as session:
            yield [session]
        return
    with instances(model_ref.path, model_ref.options, count) as sessions:
        yield sessions
