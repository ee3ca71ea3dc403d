"""`accuracy`: what a candidate's answers lose against the source model's, on the same samples."""

import msgspec

from optimize.convert.candidate_specs import SOURCE
from optimize.execution.keys import DigestedPath
from optimize.manifest import Measurement
from optimize.source.loading import SCREEN
from optimize.tournament.candidate import Candidate
from optimize.tournament.tournament import Tournament
from optimize.validate import accuracy, answers


def judge(tournament: Tournament, candidate: Candidate, split: str) -> Candidate:
    """`max_drop` and `min_agreement` on one split; the source has nothing to lose, and a model without samples shows nothing.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    if not tournament.has_samples or candidate.precision == SOURCE:
        return candidate
    found = _compared(tournament, candidate, split)
    candidate = msgspec.structs.replace(candidate, accuracy=found)
    budget = tournament.budgets.accuracy
    method = f"paired with the source model's answers on the {split} split"
    for key, finding, limit in (
        ("accuracy.max_drop", found.drop, budget.max_drop),
        ("accuracy.min_agreement", found.agreement, budget.min_agreement),
    ):
        if finding is None or finding.observed is None:
            continue
        low, high = finding.low, finding.high
        candidate = candidate.measured(Measurement(key, finding.observed, "share", finding.n, method, low, high))
        if limit is not None:
            candidate = candidate.judged(finding.against(key, limit))
    return candidate


def confirm(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Both budgets on samples that chose nothing, and how many answers depend on their batch.

    Raises:
        CandidateError: It fails on some sample, hangs or dies.
    """
    return _measure_batch_changed(tournament, judge(tournament, candidate, "confirmation"))


def _compared(tournament: Tournament, candidate: Candidate, split: str) -> accuracy.Accuracy:
    runner, budget = tournament.runner, tournament.budgets.accuracy
    # How fast the source answers does not matter here, so it may use every core.
    source = tournament.baseline.with_threads(runner.machine.cores)
    recorded = [_answers(tournament, model, split) for model in (source, candidate)]
    return runner.measured(
        f"{candidate.name}: accuracy on {split}",
        accuracy.Accuracy,
        accuracy.judge,
        budget,
        DigestedPath(runner.base, tournament.source.metric_digest),
        tournament.signature,
        tournament.split(split),
        *recorded,
    )


def _measure_batch_changed(tournament: Tournament, candidate: Candidate) -> Candidate:
    """The share of answers that change when a row is answered alone instead of in the largest batch."""
    largest = tournament.signature.max_batch
    if not tournament.has_samples or largest == 1:
        return candidate
    found = tournament.runner.measured(
        f"{candidate.name}: rows alone and in a batch",
        accuracy.Changed,
        accuracy.changed,
        tournament.budgets.accuracy,
        tournament.signature,
        _answers(tournament, candidate, SCREEN),
        _answers(tournament, candidate, SCREEN, row_by_row=True),
    )
    method = f"rows answered alone and in batches of {largest}"
    return candidate.measured(Measurement("accuracy.batch_changed", found.share, "share", found.n, method))


def _answers(tournament: Tournament, model: Candidate, split: str, *, row_by_row: bool = False) -> DigestedPath:
    return tournament.runner.answers(
        f"{model.name}: answers to {split}{', row by row' if row_by_row else ''}",
        answers.record,
        model.model_ref,
        tournament.signature,
        tournament.split(split),
        row_by_row=row_by_row,
    )
