"""What is measured: the source model, or an artefact's file. Both answer named arrays with named arrays."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from optimize.budgets import ModelBudgets
from optimize.manifest import SessionOptions
from optimize.runtime.session import OnnxSession, Session, instances
from optimize.source.model import is_onnx, load_torch


class Subject(Struct, frozen=True):
    """An artefact (where `path` is given) or the source model, and how it is opened."""

    budgets: ModelBudgets
    base: Path
    options: SessionOptions
    path: Path | None = None


@contextmanager
def opened(subject: Subject) -> Iterator[Session]:
    """Open a subject; artefacts and ONNX sources go through the session that serves them."""
    path = subject.path or (subject.base / subject.budgets.source if is_onnx(subject.budgets) else None)
    if path is None:
        yield load_torch(subject.budgets, subject.base, subject.options.threads)
        return
    with OnnxSession(path, subject.options) as session:
        yield session


@contextmanager
def opened_instances(subject: Subject, count: int) -> Iterator[Sequence[Session]]:
    """An artefact's sessions as serving opens them, so many at once; the source model is not served, and runs alone."""
    if subject.path is None:
        with opened(subject) as session:
            yield [session]
        return
    with instances(subject.path, subject.options, count) as sessions:
        yield sessions
