"""Requests that are told when to retry come one after another, and find room."""

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.runtime.batching.scheduling.retry_after import RetryAfter

SPREAD_S = 10.0
times_s = st.floats(0.001, 100.0)


def test_one_after_the_other() -> None:
    retry_after = RetryAfter(SPREAD_S)
    assert [retry_after.next_s(0.0, 2.0, takes_s) for takes_s in (0.5, 0.25, 0.5)] == [2.0, 2.5, 2.75]


def test_what_has_passed_is_forgotten() -> None:
    retry_after = RetryAfter(SPREAD_S)
    retry_after.next_s(0.0, 2.0, 3.0)
    assert retry_after.next_s(50.0, 2.0, 3.0) == 2.0


def test_they_begin_again_where_the_last_would_be_too_late() -> None:
    retry_after = RetryAfter(SPREAD_S)
    assert [retry_after.next_s(0.0, 2.0, 6.0) for _ in range(4)] == [2.0, 8.0, 2.0, 8.0]


@given(st.lists(st.tuples(times_s, times_s, times_s), min_size=1))
def test_none_before_the_queue_is_drained_nor_later_than_the_spread(asked: list[tuple[float, float, float]]) -> None:
    retry_after, now = RetryAfter(SPREAD_S), 0.0
    for passed_s, drained_s, takes_s in asked:
        now += passed_s
        after_s = retry_after.next_s(now, drained_s, takes_s)
        assert drained_s <= after_s + 1e-9
        assert after_s <= drained_s + SPREAD_S + 1e-9


def burst(callers: int, room: int, takes_s: float, spread_s: float) -> tuple[float, int]:
    """Seconds until all who come at once are answered by a queue with so much room, and how often one of them was refused."""
    retry_after = RetryAfter(spread_s)
    coming = [(0.0, caller) for caller in range(callers)]
    heapq.heapify(coming)
    free_at, refusals = 0.0, 0
    while coming:
        now, caller = heapq.heappop(coming)
        drained_s = max(free_at - now, 0.0)
        if drained_s <= (room - 1) * takes_s:
            free_at = max(free_at, now) + takes_s
        else:
            refusals += 1
            heapq.heappush(coming, (now + retry_after.next_s(now, drained_s, takes_s), caller))
    return free_at, refusals


@pytest.mark.parametrize("spread_s", [SPREAD_S, 2 * SPREAD_S])
def test_a_burst_is_worked_off_without_a_pause_and_hardly_anyone_is_refused_twice(spread_s: float) -> None:
    """Also one that is longer than the spread. All told the same time, everyone would be refused eight times on average."""
    callers, room, takes_s = 16_000, 1_000, 0.001
    seconds, refusals = burst(callers, room, takes_s, spread_s)
    assert seconds == pytest.approx(callers * takes_s, rel=0.01)
    assert refusals < 1.7 * callers
    assert burst(callers, room, takes_s, 0.0)[1] > 7 * callers
