"""A load test from start to end: ask the service, draw the schedule, run the generator, judge the calls, write the report."""

import datetime as dt
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest import payloads, plan, report, results, service, verdict
from optimize.budgets import ModelBudgets
from optimize.errors import Exit, ProveserveError, UserError
from optimize.execution import atomic, child_process
from optimize.statistics.arrivals import Arrivals, Seconds, schedule
from optimize.statistics.blocks import BLOCKS, MIN_BLOCK_CALLS
from serve.client.connection import Connection

LEAD_IN_S = 2.0
TIMEOUT_S = 10.0
JUDGED_CALLS = BLOCKS * MIN_BLOCK_CALLS
MAX_CALLS = 10_000_000
"""Every call is planned before the first is sent, and its outcome is kept: this many take about 1 GB."""

MARKDOWN_FILE, JSON_FILE = "report.md", "report.json"
_EXITS = {"PASS": Exit.OK, "FAIL": Exit.OVER_BUDGET, "INCONCLUSIVE": Exit.INCONCLUSIVE}
_START_AND_END_S = 60.0
_POLL_S = 0.1
_LAST_WORDS = 300

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Settings:
    """One load test: what is tested, and how. `input_path` holds real rows; without it, inputs are generated."""

    connection: Connection
    model: str
    budgets: ModelBudgets
    rate_qps: float
    calls: int
    report_dir: Path
    arrivals: Arrivals = "poisson"
    seed: int = 0
    input_path: Path | None = None
    timeout_s: float = TIMEOUT_S
    lead_in_s: float = LEAD_IN_S
    min_block_calls: int = MIN_BLOCK_CALLS

    @property
    def target(self) -> str:
        """The address of the service."""
        return self.connection.address

    @property
    def lead_in_calls(self) -> int:
        """Calls of the lead-in."""
        return round(self.rate_qps * self.lead_in_s)

    @property
    def start_s(self) -> float:
        """When the judged part starts, on the schedule's clock."""
        return self.lead_in_calls / self.rate_qps

    @property
    def end_s(self) -> float:
        """When the schedule ends."""
        return self.start_s + self.calls / self.rate_qps


def run(settings: Settings, progress: Progress = lambda _: None) -> report.Report:
    """Load-test a service and leave report.md, report.json and calls.npz in the report folder.

    `progress` is called with the seconds since the generator started, a few times per second.

    Raises:
        UserError: The address, the input file or the report folder cannot be used.
        ProveserveError: The service is not there, or the generator broke.
    """
    rng = np.random.default_rng(settings.seed)
    requests = _requests(settings, rng)
    _clear(settings.report_dir)
    started = dt.datetime.now(dt.UTC)
    calls = _offer(
        plan.plan(settings.connection, settings.timeout_s, _schedule(settings, rng), requests), settings, progress
    )
    found = _judge(settings, calls, started, len(requests))
    atomic.write(settings.report_dir / MARKDOWN_FILE, report.markdown(found).encode() + b"\n")
    atomic.write(settings.report_dir / JSON_FILE, report.to_json(found))
    return found


def _requests(settings: Settings, rng: np.random.Generator) -> tuple[bytes, ...]:
    service.check_target(settings.target)
    metadata = service.describe(settings.connection, settings.model)
    inputs = payloads.inputs_of(metadata, settings.budgets)
    if settings.input_path is None:
        requests = payloads.encode(settings.model, payloads.make(inputs, rng))
    else:
        requests = payloads.encode(settings.model, payloads.read(settings.input_path, inputs, rng))
        different = len(set(requests))
        if different < payloads.MIN_DIFFERENT:
            raise UserError(
                f"{settings.input_path}: makes {different} different requests; wanted at least {payloads.MIN_DIFFERENT}"
            )
    service.try_one(settings.connection, requests[0], _origin(settings), settings.timeout_s)
    return requests


def _origin(settings: Settings) -> str:
    return "the service's own metadata" if settings.input_path is None else str(settings.input_path)


def _clear(folder: Path) -> None:
    """Make the report folder, without the report of an earlier run, which could be mistaken for this one's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MARKDOWN_FILE, JSON_FILE, plan.CALLS_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot store the report: {error.strerror}; name a folder with --report") from None


def _schedule(settings: Settings, rng: np.random.Generator) -> Seconds:
    lead_in = schedule(settings.arrivals, settings.rate_qps, settings.lead_in_calls, rng)
    judged = schedule(settings.arrivals, settings.rate_qps, settings.calls, rng)
    return np.concatenate([lead_in, settings.start_s + judged])


def _offer(offered: plan.Plan, settings: Settings, progress: Progress) -> results.Calls:
    """Run the generator on the plan, and keep its calls next to the report."""
    with tempfile.TemporaryDirectory(prefix="proveserve-loadtest-") as name:
        folder = Path(name)
        plan.save(folder / plan.PLAN_FILE, offered)
        _generate(folder, settings.connection.token, settings.end_s + settings.timeout_s + _START_AND_END_S, progress)
        atomic.write(settings.report_dir / plan.CALLS_FILE, (folder / plan.CALLS_FILE).read_bytes())
        return results.load(folder / plan.CALLS_FILE)


def _generate(folder: Path, token: str, limit_s: float, progress: Progress) -> None:
    log = folder / "log.txt"
    with log.open("wb") as sink:
        # libev's timers are as fine as its backend's: select wakes to the microsecond, epoll to the millisecond.
        environment = os.environ | {"GEVENT_BACKEND": "select", plan.TOKEN_VARIABLE: token}
        child = child_process.start("loadtest.user", [str(folder)], sink, flags=["-P"], environment=environment)
    started = time.monotonic()
    try:
        while child.poll() is None:
            elapsed_s = time.monotonic() - started
            if elapsed_s > limit_s:
                raise ProveserveError(
                    f"the load generator did not end within {limit_s:.0f} s; check that the machine is not overloaded"
                )
            progress(elapsed_s)
            time.sleep(_POLL_S)
    finally:
        child_process.end(child)
    if child.returncode != 0:
        said = log.read_text(errors="replace").strip()[-_LAST_WORDS:].replace("\n", " | ")
        raise ProveserveError(f"the load generator ended with code {child.returncode}: {said or 'it said nothing'}")


def _judge(settings: Settings, calls: results.Calls, started: dt.datetime, payload_count: int) -> report.Report:
    budget = settings.budgets.throughput
    whole = verdict.Run(calls, settings.rate_qps, settings.start_s, settings.end_s, settings.min_block_calls)
    judged = whole.judged
    health = verdict.generator(judged, budget.p99_ms)
    verdicts = verdict.judge(whole, budget, health)
    outcome = verdict.overall(verdicts)
    return report.Report(
        schema=1,
        model=settings.model,
        target=settings.target,
        started=started.isoformat(timespec="seconds"),
        verdict=outcome,
        exit=int(_EXITS[outcome]),
        verdicts=verdicts,
        load=report.Load(
            arrivals=settings.arrivals,
            rate_qps=settings.rate_qps,
            duration_s=settings.end_s - settings.start_s,
            lead_in_s=settings.start_s,
            seed=settings.seed,
            calls=settings.calls,
            rows_per_call=settings.budgets.latency.batch,
            timeout_s=settings.timeout_s,
            payloads=payload_count,
            payloads_from=_origin(settings),
        ),
        good_qps=whole.good_qps,
        latency=report.percentiles(judged.judged_ms),
        since_sent=report.percentiles(judged.since_sent_ms),
        blocks=report.blocks(judged),
        codes=judged.by_code(),
        said=judged.first_said(),
        versions=judged.by_version(),
        generator=health,
    )
