"""The stages of a candidate in order, cheap ones first. Each stops where the candidate is out.

Raises:
    CandidateError: In each of them: the candidate fails on some sample, hangs or dies.
"""

from collections.abc import Callable

from optimize.source.loading import SCREEN
from optimize.tournament import golden
from optimize.tournament.candidate import Candidate
from optimize.tournament.judging import accuracy, cost, latency, load, memory, screen, size, speed
from optimize.tournament.tournament import Tournament

Judge = Callable[[Tournament, Candidate], Candidate]


def screened(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Size, sanity, 20 calls and 256 samples."""
    candidate = _in_turn(tournament, candidate, size.judge, screen.time, _judge_accuracy_on(SCREEN))
    return screen.stop_over_budget(candidate)


def measured(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Memory, the selection split, and latency in up to three looks."""
    return _in_turn(tournament, candidate, memory.judge, _judge_accuracy_on("selection"), latency.judge_looks)


def confirmed(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Samples that chose nothing, five fresh processes, and speed against the source and the current version."""
    return _in_turn(
        tournament,
        candidate,
        accuracy.confirm,
        latency.judge_pooled,
        latency.measure_end_to_end,
        _judge_speed_and_cost,
        speed.judge_slowdown,
    )


def load_tested(tournament: Tournament, candidate: Candidate) -> Candidate:
    """Latency per batch size, and throughput where a rate is declared."""
    return _in_turn(tournament, candidate, load.measure_curve, load.judge)


def ready_to_publish(tournament: Tournament, candidate: Candidate) -> Candidate:
    """All that its manifest will say, before it is chosen, so that one that breaks here loses only itself."""
    load.layouts(tournament, candidate)
    golden.record(tournament, candidate)
    return load_tested(tournament, candidate)


def _judge_speed_and_cost(tournament: Tournament, candidate: Candidate) -> Candidate:
    """The cost follows from the speed and takes no time, so it is reported of one that is too slow as well."""
    return cost.judge(tournament, speed.judge_speedup(tournament, candidate))


def _judge_accuracy_on(split: str) -> Judge:
    return lambda tournament, candidate: accuracy.judge(tournament, candidate, split)


def _in_turn(tournament: Tournament, candidate: Candidate, *judges: Judge) -> Candidate:
    for judge in judges:
        if candidate.out:
            break
        candidate = judge(tournament, candidate)
    return candidate
