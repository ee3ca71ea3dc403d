import json
from pathlib import Path

import grpc
import numpy as np

from loadtest import report, verdict
from optimize.budgets import ThroughputBudget
from tests.loadtest.calls import calls

GOLDEN = Path(__file__).with_name("golden.md")

TABLE = """\
FAIL: toy at 127.0.0.1:9000, 16,000 calls at 200 per second, poisson arrivals, 80.0 s
budget             limit  observed  verdict
throughput.qps     200    198.9     PASS
throughput.p99_ms  40     60.0      FAIL
throughput.p99_ms: p99 within 40 ms in 0 of 8 blocks of 2,000 calls (best 60 ms, worst 60 ms)
calls: OK 15,920, UNAVAILABLE 80; answered by version: 3 15,920"""


def example() -> report.Report:
    index = np.arange(16_000)
    judged = calls(
        16_000,
        rate_qps=200.0,
        latency_ms=np.where(index % 20 == 0, 60.0, 20.0),
        late_ms=1.25,
        code=np.where(index % 200 == 9, grpc.StatusCode.UNAVAILABLE.value[0], 0),
    )
    budget = ThroughputBudget(qps=200.0, p99_ms=40.0)
    run = verdict.Run(judged, 200.0, 0.0, 80.0, 2000)
    health = verdict.generator(judged, budget.p99_ms)
    verdicts = verdict.judge(run, budget, health)
    return report.Report(
        schema=1,
        model="toy",
        target="127.0.0.1:9000",
        started="2026-01-01T00:00:00+00:00",
        verdict=verdict.overall(verdicts),
        exit=1,
        verdicts=verdicts,
        load=report.Load("poisson", 200.0, 80.0, 2.0, 7, 16_000, 1, 10.0, 64, "rows.npz"),
        good_qps=run.good_qps,
        latency=report.percentiles(judged.judged_ms),
        since_sent=report.percentiles(judged.since_sent_ms),
        blocks=report.blocks(judged),
        codes=judged.by_code(),
        said=judged.first_said(),
        versions=judged.by_version(),
        generator=health,
    )


def test_markdown_puts_the_verdict_first_and_leaves_nothing_out():
    assert report.markdown(example()) + "\n" == GOLDEN.read_text()


def test_the_table_for_a_terminal_is_a_few_lines():
    assert report.table(example()) == TABLE


def test_json_has_the_verdict_records_of_export_and_no_infinity():
    text = report.to_json(example()).decode()
    assert "Infinity" not in text
    found = json.loads(text)
    assert found["verdict"] == "FAIL"
    assert found["exit"] == 1
    for record in found["verdicts"]:
        assert record.keys() >= {"budget", "limit", "observed", "low", "high", "n", "verdict"}
    assert found["latency"]["max_ms"] is None
    assert found["codes"] == {"OK": 15_920, "UNAVAILABLE": 80}
    assert found["versions"] == {"3": 15_920}
    assert [block["failed"] for block in found["blocks"]] == [10] * 8
    assert found["generator"]["kept_up"] is True


def test_no_p99_is_reported_of_fewer_than_299_calls():
    assert report.percentiles(np.arange(298.0)).p99_ms is None
    assert report.percentiles(np.arange(299.0)).p99_ms == 296.0
