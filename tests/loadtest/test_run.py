"""Real runs: the real generator in its process, against a service on a real port.

Blocks are short here, so that a run takes seconds; limits are wide, so that a busy machine fails no test.
"""

import dataclasses
import json
import time

import grpc
import numpy as np
import psutil
import pytest

from loadtest import results, run
from optimize.budgets import Dim, LatencyBudget, ModelBudgets, ThroughputBudget
from optimize.errors import ProveserveError, UserError
from protos import open_inference_pb2 as pb
from serve.client.connection import Connection
from tests.loadtest import service

RATE = 200.0
HIGH_RATE = 400.0
"""Where it plays no part that calls are sent on time."""
BLOCK = 100


def settings(toy, folder, p99_ms=2_000.0, rate=RATE, calls=8 * BLOCK, **others):
    budgets = ModelBudgets(
        source="toy.onnx",
        latency=LatencyBudget(batch=2),
        dims={"batch": Dim(1, 1, 8)},
        throughput=ThroughputBudget(qps=rate, p99_ms=p99_ms),
    )
    return run.Settings(
        connection=Connection(toy.target),
        model=service.MODEL,
        budgets=budgets,
        rate_qps=rate,
        calls=calls,
        report_dir=folder / "report",
        lead_in_s=0.5,
        min_block_calls=BLOCK,
        **others,
    )


def closed_loop_p99_ms(target: str, seconds: float) -> float:
    """What a client would measure that waits for each answer before it sends again."""
    latencies = []
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/{service.SERVICE}/ModelInfer")
        payload = pb.ModelInferRequest(model_name=service.MODEL).SerializeToString()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            call(payload, timeout=10)
            latencies.append(time.monotonic() - start)
    return float(np.quantile(latencies, 0.99)) * 1e3


def test_a_healthy_service_passes(tmp_path):
    with service.running(service.Faults(versions=("3", "4"))) as toy:
        found = run.run(settings(toy, tmp_path))
        requests = list(toy.requests)
    assert (found.verdict, found.exit) == ("PASS", 0), found.verdicts
    assert found.codes == {"OK": 800}
    assert found.versions.keys() == {"3", "4"}
    assert sum(found.versions.values()) == 800
    assert found.generator.kept_up
    assert 180 < found.good_qps < 220

    folder = tmp_path / "report"
    assert {entry.name for entry in folder.iterdir()} == {"report.md", "report.json", "calls.npz"}
    assert (folder / "report.md").read_text().startswith("# Load test of `toy`: PASS\n")
    assert json.loads((folder / "report.json").read_bytes())["verdict"] == "PASS"
    kept = results.load(folder / "calls.npz")
    assert len(kept) == 100 + 800  # with the lead-in
    assert np.all(kept.sent_s >= kept.scheduled_s)

    assert len({request.raw_input_contents[0] for request in requests}) >= 32
    assert all(list(request.inputs[0].shape) == [2, 4] for request in requests)
    assert all(request.model_name == "toy" for request in requests)


def test_the_replicas_of_a_service_are_called_in_turn(tmp_path):
    with service.running() as one, service.running() as other:
        both = settings(one, tmp_path, calls=4 * BLOCK)
        both = dataclasses.replace(both, connection=Connection(f"{one.target},{other.target}"))
        found = run.run(both)
        called = len(one.requests), len(other.requests)
    assert found.codes == {"OK": 400}
    assert min(called) > 0.4 * sum(called), called


@pytest.mark.alone
def test_what_a_frozen_service_hides_from_a_closed_loop_shows_here(tmp_path):
    # Frozen for half of the time: a closed loop sends one call during a whole freeze, and hundreds between two.
    with service.running(service.Faults(service_s=0.0, freeze_s=0.5, freeze_every_s=1.0)) as toy:
        closed_ms = closed_loop_p99_ms(toy.target, 2.0)
        found = run.run(settings(toy, tmp_path, p99_ms=250.0, calls=8 * 200))  # each block sees a freeze
    (p99,) = [v for v in found.verdicts if v.budget == "throughput.p99_ms"]
    assert closed_ms < 250.0
    assert p99.observed > 400.0
    assert p99.verdict == "FAIL"
    assert found.exit == 1
    assert found.codes == {"OK": 1600}


@pytest.mark.alone
def test_an_erring_service_fails_with_its_codes(tmp_path):
    with service.running(service.Faults(error_every=10)) as toy:
        found = run.run(settings(toy, tmp_path, rate=HIGH_RATE))
    assert {v.budget: v.verdict for v in found.verdicts} == {"throughput.qps": "FAIL", "throughput.p99_ms": "FAIL"}
    assert found.codes == {"OK": 720, "INTERNAL": 80}
    assert "| INTERNAL | 80 | as asked |" in (tmp_path / "report" / "report.md").read_text()


def test_calls_that_are_never_answered_fail_and_end_the_run_in_time(tmp_path):
    with service.running(service.Faults(silent_every=20)) as toy:
        start = time.monotonic()
        found = run.run(settings(toy, tmp_path, rate=HIGH_RATE, timeout_s=1.0))
        took_s = time.monotonic() - start
    assert found.codes == {"OK": 760, "DEADLINE_EXCEEDED": 40}
    assert found.verdict == "FAIL"
    assert took_s < 60


def test_an_answer_that_is_no_message_is_no_good_answer(tmp_path):
    with service.running(service.Faults(garbage=True)) as toy:
        found = run.run(settings(toy, tmp_path, rate=HIGH_RATE))
    assert found.codes == {"unreadable answer": 800}
    assert found.verdict == "FAIL"


def test_a_service_that_dies_midway_fails_with_unavailable(tmp_path):
    with service.running() as toy:
        ended = []

        def end_midway(_: float) -> None:
            if len(toy.requests) > 300 and not ended:
                toy.end()
                ended.append(True)

        found = run.run(settings(toy, tmp_path), end_midway)
    assert found.codes["UNAVAILABLE"] > 100
    assert found.verdict == "FAIL"


def test_the_generator_at_its_limit_is_not_blamed_on_the_service(tmp_path):
    with service.running() as toy:
        found = run.run(settings(toy, tmp_path, p99_ms=20.0, rate=20_000.0, calls=8 * 1000))
    assert found.verdict == "INCONCLUSIVE"
    assert not found.generator.kept_up
    assert all("could not keep up" in v.evidence for v in found.verdicts)


def generator_process():
    (found,) = [child for child in psutil.Process().children() if "loadtest.user" in child.cmdline()]
    return found


def test_a_generator_that_stood_still_counts_the_calls_that_were_due_meanwhile(tmp_path):
    with service.running() as toy:
        stopped = []

        def stop_once(_: float) -> None:
            if len(toy.requests) > 200 and not stopped:
                generator = generator_process()
                generator.suspend()
                stopped.append(time.sleep(1.0))
                generator.resume()

        found = run.run(settings(toy, tmp_path), stop_once)
    kept = results.load(tmp_path / "report" / "calls.npz")
    assert found.latency.p90_ms > 200.0
    assert found.generator.late_max_ms > 800.0
    assert np.all(kept.latency_ms > kept.lateness_ms)
    assert found.codes == {"OK": 800}


def test_rows_of_a_file_are_what_is_sent(tmp_path):
    rows = np.arange(40 * 4, dtype=np.float32).reshape(40, 4)
    np.savez(tmp_path / "rows.npz", x=rows)
    with service.running() as toy:
        rows_sent = settings(toy, tmp_path, rate=HIGH_RATE, input_path=tmp_path / "rows.npz", arrivals="constant")
        found = run.run(rows_sent)
        sent = {raw for request in toy.requests for raw in [request.raw_input_contents[0]]}
    assert found.load.payloads_from == str(tmp_path / "rows.npz")
    assert {part for raw in sent for part in (raw[:16], raw[16:])} == {row.tobytes() for row in rows}


def test_too_few_different_rows_are_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.ones((40, 4), np.float32))
    with service.running() as toy, pytest.raises(UserError, match="makes 1 different requests; wanted at least 32"):
        run.run(settings(toy, tmp_path, input_path=tmp_path / "rows.npz"))


def test_a_broken_run_leaves_no_report_of_an_earlier_one(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text('{"verdict": "PASS"}')
    with service.running() as toy:

        def broken(_: float) -> None:
            raise ProveserveError("broken")

        with pytest.raises(ProveserveError, match="broken"):
            run.run(settings(toy, tmp_path), broken)
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_hold_the_report_is_refused_before_the_load(tmp_path):
    (tmp_path / "report").write_text("a file")
    with service.running() as toy, pytest.raises(UserError, match="cannot store the report"):
        run.run(settings(toy, tmp_path))
