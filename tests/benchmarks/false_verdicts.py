"""How often the rules of `optimize.statistics` err where the truth is exactly at the limit: by simulation, or exactly."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from optimize.statistics import binomial, paired
from optimize.statistics.blocks import BLOCKS, SATURATED
from optimize.statistics.comparison import faster, machine_noise
from optimize.statistics.drop import score_drop, set_drop
from optimize.statistics.metrics import built_in
from optimize.statistics.percentile import ALPHA, LOOKS, look, pooled
from optimize.statistics.quantile import rank
from optimize.statistics.ranks import autocorrelation
from tests.benchmarks.traffic import SPREAD, ar1_percentile, md1, md1_percentile

Floats = npt.NDArray[np.float64]
P99 = 0.99
_CHUNK_RUNS = 200


@dataclass(frozen=True)
class Rates:
    """Shares of runs that ended PASS and FAIL, though the truth was at the limit."""

    passes: float
    failures: float
    runs: int

    def slack(self, promise: float) -> float:
        """What chance may add to a rate that is truly at its promise: three standard errors of the simulation."""
        return 3.0 * math.sqrt(promise * (1.0 - promise) / self.runs)

    def __str__(self) -> str:
        return f"{self.passes:7.1%} | {self.failures:7.1%}"


def rates(verdicts: Iterable[str]) -> Rates:
    found = list(verdicts)
    return Rates(found.count("PASS") / len(found), found.count("FAIL") / len(found), len(found))


# --- percentiles -----------------------------------------------------------------------------------------------------


def counted(latencies: Floats, limit_ms: float, looks: tuple[int, ...], alpha: float) -> Rates:
    """The counting rule at each of the looks until it decides, whatever the calls' likeness; latencies are [runs, calls]."""
    decided = np.zeros(len(latencies), int)
    for calls in looks:
        over = np.count_nonzero(latencies[:, :calls] > limit_ms, axis=1)
        passes = over <= binomial.most_hits(calls, 1.0 - P99, alpha)
        fails = over >= binomial.least_hits(calls, 1.0 - P99, alpha)
        decided = np.where(decided == 0, passes.astype(int) - fails.astype(int), decided)
    return Rates(float(np.mean(decided == 1)), float(np.mean(decided == -1)), len(latencies))


def looked(latencies: Floats, limit_ms: float) -> Rates:
    """The rule as it is used: looks fixed beforehand, and blocks where calls are correlated."""
    return rates(_first_verdict(run, limit_ms) for run in latencies)


def _first_verdict(run: Floats, limit_ms: float) -> str:
    for calls in LOOKS:
        verdict = look(run[:calls], limit_ms, P99).verdict
        if verdict != "INCONCLUSIVE":
            return verdict
    return "INCONCLUSIVE"


def in_blocks(latencies: Floats, limit_ms: float) -> Rates:
    """The block rule on [runs, calls], all blocks of equal length."""
    calls = latencies.shape[1] // BLOCKS
    over = np.count_nonzero(latencies.reshape(-1, BLOCKS, calls) > limit_ms, axis=2)
    within = np.count_nonzero(over <= calls - rank(calls, P99), axis=1)
    return Rates(float(np.mean(within == BLOCKS)), float(np.mean(within == 0)), len(latencies))


@dataclass(frozen=True)
class Queued:
    """Both rules on one queue, and how often the block rule's PASS carries its warning of saturation."""

    counting: Rates
    blocks: Rates
    warned: float


def queued(load: float, runs: int, rng: np.random.Generator, calls: int = 16_000) -> Queued:
    """Both rules on Poisson arrivals at one server with constant service, its true p99 being the limit."""
    limit = md1_percentile(load, P99)
    parts, warned = [], []
    for start in range(0, runs, _CHUNK_RUNS):
        latencies = md1(min(_CHUNK_RUNS, runs - start), calls, load, rng)
        parts.append((counted(latencies, limit, (calls,), ALPHA), in_blocks(latencies, limit)))
        warned.extend(autocorrelation(run, calls // BLOCKS // 40) > SATURATED for run in latencies[:20])
    return Queued(_joined([p[0] for p in parts]), _joined([p[1] for p in parts]), float(np.mean(warned)))


def _joined(parts: list[Rates]) -> Rates:
    runs = sum(part.runs for part in parts)
    return Rates(
        sum(part.passes * part.runs for part in parts) / runs,
        sum(part.failures * part.runs for part in parts) / runs,
        runs,
    )


def in_processes(runs: int, calls: int, shift: float, rounds: int, alpha: float, rng: np.random.Generator) -> Rates:
    """Five processes whose level differs by the share `shift` from one to the next; undecided ones run again, afresh."""
    limit = math.exp(math.hypot(SPREAD, shift) * math.log(ar1_percentile(P99)) / SPREAD)

    def verdict() -> str:
        for _ in range(rounds):
            processes = np.exp(SPREAD * rng.standard_normal((5, calls)) + shift * rng.standard_normal((5, 1)))
            found = pooled(list(processes), limit, P99, alpha=alpha).verdict
            if found != "INCONCLUSIVE":
                break
        return found

    return rates(verdict() for _ in range(runs))


# --- accuracy --------------------------------------------------------------------------------------------------------

Decides = Callable[[int, int], bool]


def paired_rules(n: int, max_drop: float, confidence: float = 0.95) -> dict[str, Decides]:
    """What (lost, won) of n decide, by Tango's interval as published and by the bounds in use."""
    z = float(ndtri(confidence))
    return {
        "tango PASS": lambda lost, won: tango_score(lost, won, n, max_drop) < -z,
        "tango FAIL": lambda lost, won: tango_score(lost, won, n, max_drop) > z,
        "PASS": lambda lost, won: paired.upper_bound(lost, won, n, confidence) < max_drop,
        "FAIL": lambda lost, won: paired.lower_bound(lost, won, n, confidence) > max_drop,
    }


def tango_score(lost: int, won: int, n: int, drop: float) -> float:
    """Tango's statistic of the hypothesis that the true drop is `drop` (his equations 24 to 26, with lost for b and won for c)."""
    variance, _ = paired.moments(lost, won, n, drop)
    return (lost - won - n * drop) / math.sqrt(variance)


def chance(decides: Decides, n: int, lost_share: float, won_share: float, *, few_lost: bool) -> float:
    """Exact chance of a verdict that few (or many) lost answers decide: the sum over all tables of n samples.

    Given how many are won, the decision turns at one number of lost answers, which rises with the won.
    """
    total, lost = 0.0, 0
    for won in range(_far(n, won_share) + 1):
        while lost <= n - won and decides(lost, won) == few_lost:
            lost += 1
        here = binomial.at_most(won, n, won_share) - binomial.at_most(won - 1, n, won_share) if won_share else won == 0
        fewer = binomial.at_most(lost - 1, n - won, lost_share / (1.0 - won_share))
        total += here * (fewer if few_lost else 1.0 - fewer)
    return total


def _far(n: int, share: float) -> int:
    """A count that Bin(n, share) exceeds next to never."""
    return min(n, math.ceil(n * share + 8.0 * math.sqrt(n * share) + 8.0)) if share else 0


def worst_paired(rule: str, sizes: Iterable[int], drops: Iterable[float], won_shares: Iterable[float]) -> float:
    """The worst exact chance of a false verdict, where the true drop is the limit itself."""
    return max(
        chance(paired_rules(n, drop)[rule], n, won + drop, won, few_lost=rule.endswith("PASS"))
        for n in sizes
        for drop in drops
        for won in won_shares
    )


DropsDrawn = Callable[[np.random.Generator, int], Floats]

SCORE_DROPS: dict[str, tuple[DropsDrawn, float]] = {
    "normal": (lambda rng, n: rng.standard_normal(n), 0.0),
    "Student t, 3 degrees": (lambda rng, n: rng.standard_t(3, n), 0.0),
    "1 in 5 lose, log-normal": (lambda rng, n: rng.lognormal(0, 1, n) * (rng.random(n) < 0.2), 0.2 * math.exp(0.5)),
    "1 in 5 gain, log-normal": (lambda rng, n: -rng.lognormal(0, 1, n) * (rng.random(n) < 0.2), -0.2 * math.exp(0.5)),
}


def scored(shape: str, n: int, runs: int, rng: np.random.Generator) -> Rates:
    """Per-sample scores whose drops have this shape, its true mean being the limit."""
    drawn, mean = SCORE_DROPS[shape]
    zeros = np.zeros(n)
    return rates(score_drop(zeros, -drawn(rng, n), mean, 0.95, seed).verdict for seed in range(runs))


def set_scored(name: str, n: int, runs: int, rng: np.random.Generator, draws: int = 1_000) -> Rates:
    """A set-valued metric of a candidate with slight noise of its own, its drop in two million samples being the limit."""
    metric = built_in(name)
    outputs, labels = _answers(name, 2_000_000, rng)
    limit = metric.value(outputs[0], labels) - metric.value(outputs[1], labels)

    def verdict(seed: int) -> str:
        outputs, labels = _answers(name, n, rng)
        answers, score = [metric.read(output, labels) for output in outputs], metric.scoring(labels)
        return set_drop(
            lambda i: (score(answers[0][i], labels[i]), score(answers[1][i], labels[i])), n, limit, 0.95, seed, draws
        ).verdict

    return rates(verdict(seed) for seed in range(runs))


def _answers(name: str, n: int, rng: np.random.Generator) -> tuple[tuple[Floats, Floats], npt.NDArray[np.generic]]:
    if name in ("f1", "auc"):
        labels = (rng.random(n) < 0.3).astype(int)
        source = 2.0 * labels - 1.0 + 0.7 * rng.standard_normal(n)
        candidate = source + 0.1 * rng.standard_normal(n)
        return (np.stack([-source, source], axis=1), np.stack([-candidate, candidate], axis=1)), labels
    numbers = rng.standard_normal(n)
    source = numbers + 0.3 * rng.standard_normal(n)
    return (source, source + 0.1 * rng.standard_normal(n)), numbers


# --- comparison ------------------------------------------------------------------------------------------------------


def compared(true_ratio: float, runs: int, rng: np.random.Generator, *, bursts: float = 0.0) -> dict[str, float]:
    """Shares of outcomes for 20 pairs of 50-call blocks, of which the share `bursts` meets a burst of other work."""

    def blocks(level_ms: float) -> list[Floats]:
        loads = 1.0 + (rng.random(20) < bursts) * rng.exponential(0.5, 20)
        return [level_ms * load * np.exp(0.1 * rng.standard_normal(50)) for load in loads]

    found = [faster(blocks(1.0), blocks(true_ratio), seed=seed).outcome for seed in range(runs)]
    return {outcome: found.count(outcome) / runs for outcome in ("faster", "tie", "slower")}


def noise_of(runs: int, rng: np.random.Generator) -> float:
    """The median noise that A/A runs of such blocks report."""

    def blocks() -> list[Floats]:
        return list(np.exp(0.1 * rng.standard_normal((20, 50))))

    return float(np.median([machine_noise(blocks(), blocks(), seed=seed) for seed in range(runs)]))
