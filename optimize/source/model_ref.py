"""What is measured: the source model, or an artefact's file. Both answer named arrays with named arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from optimize.budgets import ModelBudgets
from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession, Session, instances
from optimize.source.model import is_onnx, load_torch


class ModelRef(Struct, frozen=True):
    """An artefact (where `path` is given) or the source model, how it is opened, and the digest of what it holds.

    Only the source is loaded by its budgets: by `source`, `inputs` and `outputs`.
    """

    budgets: ModelBudgets
    base: Path
    options: SessionOptions
    path: Path | None = None
    digest: str = ""

    @property
    def cache_key(self) -> object:
        """All that decides what it answers.

        Raises:
            TypeError: It has no digest.
        """
        if not self.digest:
            raise TypeError(f"{self!r} cannot be part of a cache key without a digest")
        budgets = self.budgets
        return self.digest, self.options, None if self.path else (budgets.source, budgets.inputs, budgets.outputs)


@contextmanager
def opened(model_ref: ModelRef) -> Iterator[Session]:
    """Open a model; artefacts and ONNX sources go through the session that serves them."""
    path = model_ref.path or (model_ref.base / model_ref.budgets.source if is_onnx(model_ref.budgets) else None)
    if path is None:
        yield load_torch(model_ref.budgets, model_ref.base, model_ref.options.threads)
        return
    with OnnxSession(path, model_ref.options) as session:
        yield session


@contextmanager
def opened_instances(model_ref: ModelRef, count: int) -> Iterator[Sequence[Session]]:
    """`count` sessions of an artefact, as serving opens them; the source model is not served, and has one."""
    if model_ref.path is None:
        with opened(model_ref) as session:
            yield [session]
        return
    with instances(model_ref.path, model_ref.options, count) as sessions:
        yield sessions
