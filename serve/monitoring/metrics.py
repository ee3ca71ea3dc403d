"""The metrics of a replica for Prometheus.

CallCounters       plain integers, counted on the request path
ReplicaCollector   reads those and the batchers' counters when it is scraped
listen             the endpoint on loopback
"""

import errno
import importlib.metadata
import threading
from collections.abc import Iterator, Sequence
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from optimize.runtime.batching.counters import Outcome
from optimize.runtime.batching.histogram import SECONDS, Histogram
from serve.models.hosting import Models
from serve.models.loading import LoadedVersion
from serve.monitoring import memory

LOOPBACK = "127.0.0.1"
_REJECTIONS: tuple[Outcome, ...] = ("queue_full", "infeasible", "expired", "late", "closed")
_OF_MODEL = ("model", "version")


class CallCounters:
    """How calls ended, and how long the answered ones took. One event loop writes, any thread reads."""

    def __init__(self) -> None:
        self.ended: dict[tuple[str, str, str], int] = {}
        self.queue_s: dict[str, Histogram] = {}
        self.codec_s: dict[str, Histogram] = {}
        self.unread = 0
        """Predictions that were refused before their message, and so their model, was known."""

    def end(self, method: str, model: str, code: grpc.StatusCode) -> None:
        """A call of `method` ended with `code`; `model` is empty if it named no model of this service."""
        key = (method, model, code.name)
        self.ended[key] = self.ended.get(key, 0) + 1

    def answered(self, model: str, queue_s: float, codec_s: float) -> None:
        """A prediction was made, after a wait of `queue_s`; reading and writing it took `codec_s`."""
        if model not in self.queue_s:
            self.queue_s[model], self.codec_s[model] = Histogram(SECONDS), Histogram(SECONDS)
        self.queue_s[model].observe(queue_s)
        self.codec_s[model].observe(codec_s)


class ReplicaCollector(Collector):
    """The metrics of one replica, collected at every scrape."""

    def __init__(self, models: Models, calls: CallCounters) -> None:
        self._models = models
        self._calls = calls

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order in which the documentation lists them."""
        versions = self._models.loaded
        yield from self._of_calls()
        yield from _of_batches(versions, self._calls.unread)
        yield from _of_now(versions)
        yield from _of_versions(versions)

    def _of_calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "proveserve_calls", "Calls that ended, by gRPC code.", labels=("method", "model", "code")
        )
        for key, count in self._calls.ended.copy().items():
            calls.add_metric(key, count)
        yield calls
        for name, text, tallies in (
            ("queue", "Wait of an answered prediction for its batch.", self._calls.queue_s),
            ("codec", "Reading and writing of an answered prediction's tensors.", self._calls.codec_s),
        ):
            family = HistogramMetricFamily(f"proveserve_{name}_seconds", text, labels=("model",))
            for model, tally in tallies.copy().items():
                _add_histogram(family, (model,), tally)
            yield family


def _of_batches(versions: Sequence[LoadedVersion], unread: int) -> Iterator[Metric]:
    execution = HistogramMetricFamily("proveserve_execution_seconds", "Execution of a batch.", labels=_OF_MODEL)
    rows = HistogramMetricFamily("proveserve_batch_rows", "Rows of an executed batch.", labels=_OF_MODEL)
    failed = CounterMetricFamily("proveserve_failed_executions", "Executions that raised.", labels=_OF_MODEL)
    rejected = CounterMetricFamily(
        "proveserve_rejected", "Predictions refused, by reason.", labels=(*_OF_MODEL, "reason")
    )
    rejected.add_metric(("", "", "unread"), unread)
    for one in versions:
        counters = one.batcher.counters
        _add_histogram(execution, _labels(one), counters.execution_s)
        _add_histogram(rows, _labels(one), counters.batch_rows)
        failed.add_metric(_labels(one), counters.failed_executions)
        for reason in _REJECTIONS:
            rejected.add_metric((*_labels(one), reason), counters.calls[reason])
    yield from (execution, rows, failed, rejected)


def _of_now(versions: Sequence[LoadedVersion]) -> Iterator[Metric]:
    slots = GaugeMetricFamily("proveserve_slots", "Executions that can be under way at once.", labels=_OF_MODEL)
    busy = GaugeMetricFamily("proveserve_busy_slots", "Executions under way.", labels=_OF_MODEL)
    queued = GaugeMetricFamily("proveserve_queued_rows", "Rows that wait for a slot.", labels=_OF_MODEL)
    drift = GaugeMetricFamily(
        "proveserve_drift_ratio", "Execution time lately over the p95 that was measured.", labels=_OF_MODEL
    )
    for one in versions:
        slots.add_metric(_labels(one), one.batcher.workers)
        busy.add_metric(_labels(one), one.batcher.running)
        queued.add_metric(_labels(one), one.batcher.queued_rows)
        drift.add_metric(_labels(one), one.batcher.drift)
    yield from (slots, busy, queued, drift)


def _of_versions(versions: Sequence[LoadedVersion]) -> Iterator[Metric]:
    build = InfoMetricFamily("proveserve", "The release that serves.")
    build.add_metric((), {"release": importlib.metadata.version("proveserve")})
    info = InfoMetricFamily("proveserve_model", "The versions that are served.", labels=_OF_MODEL)
    for one in versions:
        measured = "here" if one.measured_here else "elsewhere"
        described = {"candidate": one.manifest.candidate, "digest": one.manifest.digest, "measured": measured}
        info.add_metric(_labels(one), described)
    yield from (build, info, *_of_memory(versions))


def _of_memory(versions: Sequence[LoadedVersion]) -> Iterator[Metric]:
    """What to compare `process_resident_memory_bytes` with."""
    budget = GaugeMetricFamily("proveserve_memory_budget_bytes", "Its budget memory.peak_mb.", labels=_OF_MODEL)
    peak = GaugeMetricFamily(
        "proveserve_memory_measured_peak_bytes", "What was measured against that budget.", labels=_OF_MODEL
    )
    for one in versions:
        found = memory.peak_memory(one.manifest)
        if found is not None:
            budget.add_metric(_labels(one), found.budget_mb * 1e6)
            peak.add_metric(_labels(one), found.measured_peak_mb * 1e6)
    yield from (budget, peak)


def _labels(one: LoadedVersion) -> tuple[str, str]:
    return one.manifest.model, str(one.manifest.version)


def _add_histogram(family: HistogramMetricFamily, labels: Sequence[str], histogram: Histogram) -> None:
    buckets, below = [], 0
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), list(histogram.counts), strict=True):
        below += count
        buckets.append((bound, below))
    family.add_metric(labels, buckets, sum_value=histogram.total)


def listen(collector: ReplicaCollector, ports: range) -> tuple[WSGIServer, threading.Thread] | None:
    """Answer scrapes on the first free port of `ports`, in a new thread; None if all are taken."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    for port in ports:
        try:
            return start_http_server(port, LOOPBACK, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return None
