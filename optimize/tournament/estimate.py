"""Pure: the steps of an export, and about how long they take."""

from optimize.budgets import ModelBudgets, limits
from optimize.statistics.blocks import BLOCKS, MIN_BLOCK_CALLS
from optimize.statistics.comparison import BLOCK_CALLS, MIN_PAIRS
from optimize.statistics.percentile import LOOKS, MIN_PROCESSES

_PROCESS_S = 3.0
_BUILD_S = 10.0
# A block of an interleaved comparison ends after about half a second, however slow the calls.
_BLOCK_S = 0.5


def steps(budgets: ModelBudgets, candidates: int, rows: int, call_ms: float) -> tuple[list[str], float]:
    """The steps of a full export, and about how many seconds they take when nothing is cached.

    `rows` are the judged samples, `call_ms` a single call of the source model. Candidates are assumed to be as slow as the source, so
    most exports end sooner.
    """
    keys = {limit.key for limit in limits(budgets)}
    call_s = call_ms / 1e3
    found = [(f"build and screen {candidates} candidates", candidates * (_BUILD_S + 2 * _PROCESS_S))]
    if rows:
        found.append(
            (
                f"answer {rows:,} samples with each of them and with the source",
                (candidates + 1) * (_PROCESS_S + rows * call_s),
            )
        )
    if keys & {"latency.p50_ms", "latency.p99_ms"}:
        calls = LOOKS[0] * (1 + MIN_PROCESSES)
        found.append(
            (
                f"time {calls:,} calls of each in {1 + MIN_PROCESSES} processes",
                candidates * ((1 + MIN_PROCESSES) * _PROCESS_S + calls * call_s),
            )
        )
    block_s = min(_BLOCK_S, BLOCK_CALLS * call_s)
    found.append(("time each against the source, interleaved", candidates * 2 * MIN_PAIRS * block_s))
    if budgets.throughput.qps is not None:
        calls = BLOCKS * MIN_BLOCK_CALLS
        found.append(
            (
                f"offer {calls:,} requests at {budgets.throughput.qps:g}/s to the best",
                calls / budgets.throughput.qps,
            )
        )
    return [text for text, _ in found], sum(seconds for _, seconds in found)
