"""What the results of one model are based on."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from optimize.budgets import ModelBudgets
from optimize.execution.keys import DigestedPath
from optimize.execution.progress import Phase
from optimize.execution.stage_runner import StageRunner
from optimize.manifest import SessionOptions, Signature
from optimize.source.loading import Source
from optimize.source.model_ref import ModelRef
from optimize.tournament.candidate import Candidate


class Tournament(Struct, frozen=True):
    """One model's source, samples and ONNX graph, and what its candidates are compared with.

    `samples` is the folder of the stored splits, and `digests` has each one's digest. `preprocess` is where the code of `preprocess`
    was copied to. `current` is the version that is served now, where `speed.max_slowdown` asks for it. `noise` is the share by which a
    candidate timed against itself differed. `serving_modules` are the modules that a serving process imports.
    """

    runner: StageRunner
    source: Source
    signature: Signature
    samples: Path
    digests: Mapping[str, str]
    graph: DigestedPath
    baseline: Candidate
    preprocess: Path | None = None
    current: Candidate | None = None
    noise: float = 0.0
    serving_modules: tuple[str, ...] = ()

    @property
    def budgets(self) -> ModelBudgets:
        """The model's budgets."""
        return self.runner.budgets

    @property
    def has_samples(self) -> bool:
        """Whether there are samples to judge accuracy on."""
        return bool(self.source.rows)

    def split(self, name: str) -> DigestedPath:
        """The samples of a split; the file of a split that has none does not exist."""
        return DigestedPath(self.samples / f"{name}.npz", self.digests.get(name, ""))

    def model_ref(self, options: SessionOptions, path: Path, digest: str) -> ModelRef:
        """An artefact's file."""
        return ModelRef(self.budgets, self.runner.base, options, path, digest)

    def note(self, text: str) -> None:
        """Show one line that stays."""
        self.runner.progress.note(self.runner.name, text)

    def enter(self, phase: Phase) -> None:
        """Show that the steps that follow belong to a phase."""
        self.runner.progress.phase(self.runner.name, phase)
