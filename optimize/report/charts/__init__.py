"""The charts of one model's report.

figure         what every chart is: a Vega-Lite specification, a caption, a description for screen readers; drawn as SVG
placing        scales in pixels, and labels that do not cover each other
pareto         what each candidate loses in accuracy for its latency
distributions  the latencies of single calls, one row per candidate
amounts        one measured quantity, one bar per candidate
batches        latency per batch size
"""

from optimize.budgets import limits
from optimize.manifest import Result
from optimize.report.charts.amounts import amounts
from optimize.report.charts.batches import batches
from optimize.report.charts.distributions import distributions
from optimize.report.charts.figure import Figure
from optimize.report.charts.pareto import pareto


def figures(result: Result) -> tuple[Figure, ...]:
    """Every chart that the result has figures for."""
    declared = {limit.key: limit for limit in limits(result.budgets)}
    drawn = (pareto(result, declared), distributions(result, declared), *amounts(result, declared), batches(result))
    return tuple(figure for figure in drawn if figure is not None)
