from dataclasses import fields

import grpc
import numpy as np
import pytest

from loadtest import results
from tests.loadtest.calls import calls

DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_calls_survive_their_file(tmp_path):
    saved = calls(5, late_ms=np.arange(5.0), code=np.array([0, 0, DEADLINE, 0, results.NO_ANSWER]))
    results.save(tmp_path / "calls.npz", saved)
    loaded = results.load(tmp_path / "calls.npz")
    for field in fields(saved):
        assert np.array_equal(getattr(saved, field.name), getattr(loaded, field.name))
    with np.load(tmp_path / "calls.npz") as archive:
        assert {"scheduled_s", "sent_s", "latency_ms", "code"} <= set(archive.files)


def test_a_call_that_failed_is_slower_than_any_limit():
    some = calls(4, latency_ms=5.0, code=np.array([0, DEADLINE, results.NO_ANSWER, results.UNREADABLE]))
    assert some.judged_ms.tolist() == [5.0, np.inf, np.inf, np.inf]
    assert some.since_sent_ms.tolist() == [5.0, np.inf, np.inf, np.inf]
    assert some.by_code() == {"OK": 1, "DEADLINE_EXCEEDED": 1, "no answer": 1, "unreadable answer": 1}


def test_lateness_is_part_of_the_latency_from_the_schedule():
    some = calls(3, latency_ms=30.0, late_ms=np.array([0.0, 10.0, 25.0]))
    assert some.lateness_ms == pytest.approx([0.0, 10.0, 25.0])
    assert some.since_sent_ms == pytest.approx([30.0, 20.0, 5.0])


def test_the_lead_in_is_cut_off_by_schedule():
    some = calls(100, rate_qps=10.0)
    assert len(some.due_from(2.0)) == 80
    assert some.due_from(2.0).scheduled_s[0] == 2.0
    assert len(some.due_from(0.0)) == 100


def test_answers_count_in_the_window_they_arrive_in():
    some = calls(100, rate_qps=10.0, latency_ms=1_050.0)
    assert some.answered_between(2.0, 10.0) == 80  # those due in 1.0 .. 8.9: the ones before make up for those after
    failing = calls(100, rate_qps=10.0, latency_ms=1_050.0, code=np.where(np.arange(100) % 2, 0, DEADLINE))
    assert failing.answered_between(2.0, 10.0) == 40


def test_answers_are_counted_by_the_version_that_gave_them():
    some = calls(4, code=np.array([0, 0, 0, DEADLINE]))
    mixed = results.Calls(
        some.scheduled_s,
        some.sent_s,
        some.latency_ms,
        some.code,
        np.array([0, 1, 1, -1], np.int16),
        np.array(["1", "2"]),
        some.said,
    )
    assert mixed.by_version() == {"2": 2, "1": 1}
