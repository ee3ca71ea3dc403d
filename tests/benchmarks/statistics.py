"""Print the tables of docs/statistics.md: how often each rule errs where the truth is exactly at the limit.

``python -m tests.benchmarks.statistics`` takes about half an hour; ``--runs 200`` gives a rough picture in two minutes.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from optimize.evidence.percentile import ALPHA, LOOKS
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
    _processes(runs, rng)
    _pairs()
    _bootstraps(runs // 4, rng)
    _comparisons(runs // 4, rng)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(_shown(cell) for cell in row)} |", flush=True)


def _shown(cell: object) -> str:
    return f"{cell:.1%}" if isinstance(cell, float) else str(cell)


def _counting(runs: int, rng: np.random.Generator) -> None:
    limit = ar1_percentile(P99)
    rows = []
    for phi in (0.0, 0.2, 0.3, 0.5, 0.8, 0.95):
        latencies = ar1(runs, LOOKS[-1], phi, rng)
        one = errors.counted(latencies, limit, (1049,), ALPHA)
        three = errors.counted(latencies, limit, LOOKS, ALPHA / len(LOOKS))
        used = errors.looked(latencies, limit)
        rows.append((phi, one.passes, three.passes, used.passes, one.failures, three.failures, used.failures))
    head = ["AR(1)", *(f"{what}, {how}" for what in ("PASS", "FAIL") for how in ("one look", "three looks", "as used"))]
    _table(f"p99 at the limit, {runs:,} runs", head, [(str(row[0]), *row[1:]) for row in rows])


def _queues(runs: int, rng: np.random.Generator) -> None:
    rows = []
    for load in (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95):
        found = errors.queued(load, runs, rng)
        rows.append((str(load), found.counting.passes, found.blocks.passes, found.blocks.failures, found.warned))
    head = ["load", "PASS, counting", "PASS, blocks", "FAIL, blocks", "warned"]
    _table(f"p99 of a queue at the limit, 16,000 calls, {runs:,} runs", head, rows)


def _processes(runs: int, rng: np.random.Generator) -> None:
    rows = []
    for shift in (0.0, 0.02, 0.05):
        for calls, rounds, alpha in ((408, 1, ALPHA), (1228, 1, ALPHA), (1228, 2, ALPHA), (1228, 2, ALPHA / 2)):
            found = errors.in_processes(runs // 2, calls, shift, rounds, alpha, rng)
            rows.append((f"{shift:.0%}", str(calls), str(rounds), f"{alpha:.3f}", found.passes, found.failures))
    head = ["levels apart", "calls a process", "rounds", "alpha of a round", "PASS", "FAIL"]
    _table(f"p99 of five processes at the limit, {runs // 2:,} runs", head, rows)


def _pairs() -> None:
    rows = []
    for rule in ("tango PASS", "PASS", "tango FAIL", "FAIL"):
        row: list[object] = [rule]
        for size in (100, 256, 450, 1_000, 5_000):
            sizes = range(size, size + size // 10, max(size // 50, 1))
            row.append(errors.worst_paired(rule, sizes, (0.005, 0.01, 0.02, 0.05), (0.0, 0.001, 0.01, 0.1)))
        rows.append(row)
    _table("Right answers, exact, worst of many tables", ["rule", "100", "256", "450", "1,000", "5,000"], rows)


def _bootstraps(runs: int, rng: np.random.Generator) -> None:
    rows: list[list[object]] = []
    for shape in errors.SCORE_DROPS:
        found = [errors.scored(shape, n, runs, rng) for n in (256, 1_000)]
        rows.append([shape, *(rate for each in found for rate in (each.passes, each.failures))])
    for name in ("f1", "auc", "rmse", "spearman"):
        found = [errors.set_scored(name, n, runs // 4, rng) for n in (256, 1_000)]
        rows.append([name, *(rate for each in found for rate in (each.passes, each.failures))])
    head = ["drops", *(f"{what}, {n}" for n in ("256", "1,000") for what in ("PASS", "FAIL"))]
    _table(f"Mean scores, {runs:,} runs, and metrics of a set, {runs // 4:,} runs", head, rows)


def _comparisons(runs: int, rng: np.random.Generator) -> None:
    rows = []
    for ratio in (1.0, 1.03, 1.06, 1.1):
        for bursts in (0.0, 0.1):
            found = errors.compared(ratio, runs, rng, bursts=bursts)
            rows.append((f"{ratio:g}", f"{bursts:.0%}", found["faster"], found["tie"], found["slower"]))
    _table(f"Two candidates, {runs:,} runs", ["true ratio", "blocks in a burst", "faster", "tie", "slower"], rows)
    print(f"\nMedian noise of an A/A run of such blocks: {errors.noise_of(runs, rng):.2%}")


if __name__ == "__main__":
    main()
