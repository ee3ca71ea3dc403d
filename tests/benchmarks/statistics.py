"""Print the tables of docs/statistics.md: how often each rule errs where the truth is exactly at the limit.

``python -m tests.benchmarks.statistics`` takes about half an hour; ``--runs 200`` gives a rough picture in two minutes.
"""

import argparse
from collections.abc import Iterable, Sequence

import numpy as np

from optimize.statistics.percentile import ALPHA, LOOKS
from tests.benchmarks import false_verdicts as errors
from tests.benchmarks.traffic import ar1, ar1_percentile

P99 = 0.99


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4_000)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(20_260_101)
    _counting(runs, rng)
    _queues(runs, rng)
    _processes(runs // 2, rng)
    _pairs()
    _bootstraps(runs // 4, rng)
    _comparisons(runs // 4, rng)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table row by row, as the rows come."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(_shown(cell) for cell in row)} |", flush=True)


def _shown(cell: object) -> str:
    return f"{cell:.1%}" if isinstance(cell, float) else str(cell)


def _counting(runs: int, rng: np.random.Generator) -> None:
    limit = ar1_percentile(P99)

    def row(phi: float) -> Sequence[object]:
        latencies = ar1(runs, LOOKS[-1], phi, rng)
        one = errors.counted(latencies, limit, (1049,), ALPHA)
        three = errors.counted(latencies, limit, LOOKS, ALPHA / len(LOOKS))
        used = errors.looked(latencies, limit)
        return [str(phi), one.passes, three.passes, used.passes, one.failures, three.failures, used.failures]

    head = ["AR(1)", *(f"{what}, {how}" for what in ("PASS", "FAIL") for how in ("one look", "three looks", "as used"))]
    _table(f"p99 at the limit, {runs:,} runs", head, map(row, (0.0, 0.2, 0.3, 0.5, 0.8, 0.95)))


def _queues(runs: int, rng: np.random.Generator) -> None:
    def row(load: float) -> Sequence[object]:
        found = errors.queued(load, runs, rng)
        return [str(load), found.counting.passes, found.blocks.passes, found.blocks.failures, found.warned]

    head = ["load", "PASS, counting", "PASS, blocks", "FAIL, blocks", "warned"]
    loads = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
    _table(f"p99 of a queue at the limit, 16,000 calls, {runs:,} runs", head, map(row, loads))


def _processes(runs: int, rng: np.random.Generator) -> None:
    def row(shift: float, calls: int, rounds: int, alpha: float) -> Sequence[object]:
        found = errors.in_processes(runs, calls, shift, rounds, alpha, rng)
        return [f"{shift:.0%}", calls, rounds, f"{alpha:.3f}", found.passes, found.failures]

    head = ["levels apart", "calls per process", "rounds", "alpha of a round", "PASS", "FAIL"]
    rounds = ((408, 1, ALPHA), (1228, 1, ALPHA), (1228, 2, ALPHA), (1228, 2, ALPHA / 2))
    rows = (row(shift, *each) for shift in (0.0, 0.02, 0.05) for each in rounds)
    _table(f"p99 of five processes at the limit, {runs:,} runs", head, rows)


def _pairs() -> None:
    def worst(rule: str, size: int) -> float:
        sizes = range(size, size + size // 10, max(size // 50, 1))
        return errors.worst_paired(rule, sizes, (0.005, 0.01, 0.02, 0.05), (0.0, 0.001, 0.01, 0.1))

    sizes = (100, 256, 450, 1_000, 5_000)
    rules = ("tango PASS", "PASS", "tango FAIL", "FAIL")
    rows = ([rule, *(worst(rule, size) for size in sizes)] for rule in rules)
    _table("Right answers, exact, worst of many tables", ["rule", *map(str, sizes)], rows)


def _bootstraps(runs: int, rng: np.random.Generator) -> None:
    sizes = (256, 1_000)
    few = runs // 4
    head = ["drops", *(f"{what}, {n}" for n in sizes for what in ("PASS", "FAIL"))]

    def row(name: str, found: Iterable[errors.Rates]) -> Sequence[object]:
        return [name, *(rate for each in found for rate in (each.passes, each.failures))]

    scores = (row(shape, [errors.scored(shape, n, runs, rng) for n in sizes]) for shape in errors.SCORE_DROPS)
    _table(f"Mean scores, {runs:,} runs", head, scores)
    names = ("f1", "auc", "rmse", "spearman")
    sets = (row(name, [errors.set_scored(name, n, few, rng) for n in sizes]) for name in names)
    _table(f"Metrics of a set, {few:,} runs", head, sets)


def _comparisons(runs: int, rng: np.random.Generator) -> None:
    def row(ratio: float, bursts: float) -> Sequence[object]:
        found = errors.compared(ratio, runs, rng, bursts=bursts)
        return [f"{ratio:g}", f"{bursts:.0%}", found["faster"], found["tie"], found["slower"]]

    rows = (row(ratio, bursts) for ratio in (1.0, 1.03, 1.06, 1.1) for bursts in (0.0, 0.1))
    _table(f"Two candidates, {runs:,} runs", ["true ratio", "blocks in a burst", "faster", "tie", "slower"], rows)
    print(f"\nMedian noise of an A/A run of such blocks: {errors.noise_of(runs, rng):.2%}")


if __name__ == "__main__":
    main()
