"""What makes a replica sick, told by a clock in the hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.runtime.batching.dispatcher import Execution
from serve.monitoring.health_signals import FAILURES, SLOW_FOR_S, SLOW_RATIO, Ailment, Course, Signs, together

PERIOD_S = 2.0


class Patient:
    """A course that is looked at every two seconds."""

    def __init__(self) -> None:
        self.now = 100.0
        self.course = Course(lambda: self.now)
        self.executions = 0

    def look(
        self, *, ran: int = 10, drift: float = 1.0, failures: int = 0, executing: tuple[Execution, ...] = ()
    ) -> Ailment | None:
        self.executions += ran
        found = self.course.observe(Signs(self.executions, failures, drift, executing))
        self.now += PERIOD_S
        return found


@pytest.fixture
def patient() -> Patient:
    return Patient()


def test_work_at_the_measured_pace_is_no_ailment(patient: Patient) -> None:
    assert {patient.look(drift=SLOW_RATIO) for _ in range(100)} == {None}
    assert not patient.course.slow


def test_slow_for_twenty_seconds(patient: Patient) -> None:
    found = [patient.look(drift=SLOW_RATIO + 0.1) for _ in range(12)]
    assert found == [None] * 10 + [Ailment.SLOW] * 2
    assert patient.course.slow


def test_one_look_at_the_measured_pace_ends_the_spell(patient: Patient) -> None:
    found = [patient.look(drift=1.0 if number == 9 else 5.0) for number in range(18)]
    assert found == [None] * 18


def test_idleness_neither_proves_nor_disproves(patient: Patient) -> None:
    slow_spell = [patient.look(ran=number % 2, drift=5.0) for number in range(13)]
    assert slow_spell == [None] * 11 + [Ailment.SLOW, None]


def test_a_drift_of_long_ago_is_no_ailment(patient: Patient) -> None:
    patient.look(drift=5.0)
    patient.now += 2 * SLOW_FOR_S
    assert patient.look(drift=5.0) is None
    assert patient.look(drift=5.0) is None


def test_executions_that_take_longer_than_a_look(patient: Patient) -> None:
    """Measured at one second, taking eight: most looks see none end."""
    found = [
        patient.look(ran=int(number % 4 == 0), drift=5.0, executing=(Execution(2.0 * (number % 4), 1.0),))
        for number in range(13)
    ]
    assert found[-1] is Ailment.SLOW


def test_an_execution_that_does_not_end_is_stuck(patient: Patient) -> None:
    promised_s = 4.0
    limit_s = SLOW_RATIO * promised_s + SLOW_FOR_S
    assert patient.look(ran=0, executing=(Execution(limit_s, promised_s),)) is None
    assert patient.look(ran=0, executing=(Execution(limit_s + 0.1, promised_s),)) is Ailment.STUCK
    assert patient.look(ran=0, executing=(Execution(0.1, 4.0), Execution(limit_s + 0.1, promised_s))) is Ailment.STUCK


def test_what_was_never_measured_is_not_judged(patient: Patient) -> None:
    assert patient.look(ran=0, executing=(Execution(3600.0, 0.0),)) is None


def test_failures_running(patient: Patient) -> None:
    assert patient.look(failures=FAILURES - 1) is None
    assert patient.look(failures=FAILURES) is Ailment.FAILING


@given(st.lists(st.booleans(), min_size=1))
def test_together_means_more_than_half(slow: list[bool]) -> None:
    assert together(slow) == (slow.count(True) > slow.count(False))


def test_a_replica_that_is_alone_is_slow_together_with_all() -> None:
    assert together([True])
    assert not together([True, False])
