"""What makes a replica sick, with a clock that the test sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.runtime.batching.dispatcher import Execution
from serve.monitoring.health_signals import (
    FAILURES,
    SLOW_FOR_S,
    SLOW_RATIO,
    HealthHistory,
    HealthProblem,
    HealthSignals,
    most_are_slow,
)

PERIOD_S = 2.0


class Patient:
    """A history that is observed every two seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.history = HealthHistory(lambda: self.now)
        self.executions = 0

    def observe(
        self, *, ran: int = 10, drift: float = 1.0, failures: int = 0, executing: tuple[Execution, ...] = ()
    ) -> HealthProblem | None:
        self.executions += ran
        found = self.history.observe(HealthSignals(self.executions, failures, drift, executing))
        self.now += PERIOD_S
        return found


@pytest.fixture
def patient() -> Patient:
    return Patient()


def test_work_at_the_measured_pace_is_no_problem(patient: Patient) -> None:
    assert {patient.observe(drift=SLOW_RATIO) for _ in range(100)} == {None}
    assert not patient.history.slow


def test_slow_for_twenty_seconds(patient: Patient) -> None:
    found = [patient.observe(drift=SLOW_RATIO + 0.1) for _ in range(12)]
    assert found == [None] * 10 + [HealthProblem.SLOW] * 2
    assert patient.history.slow


def test_one_observation_at_the_measured_pace_ends_the_slow_period(patient: Patient) -> None:
    found = [patient.observe(drift=1.0 if number == 9 else 5.0) for number in range(18)]
    assert found == [None] * 18


def test_idle_time_neither_confirms_nor_ends_slowness(patient: Patient) -> None:
    slow = [patient.observe(ran=number % 2, drift=5.0) for number in range(13)]
    assert slow == [None] * 11 + [HealthProblem.SLOW, None]


def test_an_old_drift_is_no_problem(patient: Patient) -> None:
    patient.observe(drift=5.0)
    patient.now += 2 * SLOW_FOR_S
    assert patient.observe(drift=5.0) is None
    assert patient.observe(drift=5.0) is None


def test_executions_that_take_longer_than_the_period(patient: Patient) -> None:
    """Measured at one second, taking eight: in most periods none ends."""
    found = [
        patient.observe(ran=int(number % 4 == 0), drift=5.0, executing=(Execution(2.0 * (number % 4), 1.0),))
        for number in range(13)
    ]
    assert found[-1] is HealthProblem.SLOW


def test_an_execution_that_does_not_end_is_stuck(patient: Patient) -> None:
    predicted_s = 4.0
    limit_s = SLOW_RATIO * predicted_s + SLOW_FOR_S
    assert patient.observe(ran=0, executing=(Execution(limit_s, predicted_s),)) is None
    assert patient.observe(ran=0, executing=(Execution(limit_s + 0.1, predicted_s),)) is HealthProblem.STUCK
    assert (
        patient.observe(ran=0, executing=(Execution(0.1, 4.0), Execution(limit_s + 0.1, predicted_s)))
        is HealthProblem.STUCK
    )


def test_what_was_never_measured_is_not_judged(patient: Patient) -> None:
    assert patient.observe(ran=0, executing=(Execution(3600.0, 0.0),)) is None


def test_failures_in_a_row(patient: Patient) -> None:
    assert patient.observe(failures=FAILURES - 1) is None
    assert patient.observe(failures=FAILURES) is HealthProblem.FAILING


@given(st.lists(st.booleans(), min_size=1))
def test_most_means_more_than_half(slow: list[bool]) -> None:
    assert most_are_slow(slow) == (slow.count(True) > slow.count(False))


def test_if_the_only_replica_is_slow_most_are_slow() -> None:
    assert most_are_slow([True])
    assert not most_are_slow([True, False])
