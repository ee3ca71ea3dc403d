import math
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.manifest import CurvePoint
from optimize.runtime.batching.curve import Curve
from optimize.runtime.batching.latency_model import Forecast
from optimize.runtime.batching.queue import Waiting
from optimize.runtime.batching.scheduler import AGED_EVERY, Queue
from tests.optimize.runtime.fakes import linear_curve
from tests.optimize.runtime.simulation import Load, Simulation

MAX_ROWS = 8
FIXED_S, ROW_S = 1.0, 0.25
FORECAST = Forecast(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)


def cost_s(rows):
    return FIXED_S + rows * ROW_S


def waiting(sequence, *, rows=1, deadline=1e9, priority=0, group="a", arrived=0.0, shape=(), forecast=FORECAST):
    return Waiting((priority, deadline, sequence), arrived, rows, group, shape, forecast)


def queue(requests, *, joinable=True, slots=1, ageing_s=math.inf, forecast=FORECAST):
    made = Queue(forecast, joinable=joinable, slots=slots, ageing_s=ageing_s)
    for request in requests:
        made.add(request)
    return made


def _requests(most_rows, latest, priorities, groups):
    one = st.tuples(
        st.integers(1, most_rows), st.integers(0, latest), st.sampled_from(priorities), st.sampled_from(groups)
    )
    return st.lists(one, max_size=40).map(
        lambda many: [
            waiting(n, rows=rows, deadline=float(deadline), priority=priority, group=group)
            for n, (rows, deadline, priority, group) in enumerate(many)
        ]
    )


# Of every kind, and of one kind so crowded that somebody must be given up.
REQUESTS = _requests(MAX_ROWS + 2, 40, (-1, 0, 1, 2), "ab") | _requests(2, 10, (0,), "a")


@settings(deadline=None)
@given(REQUESTS, st.integers(0, 20), st.booleans())
def test_a_batch_keeps_every_promise(requests, now, joinable):
    line = queue(requests, joinable=joinable)
    batch, lost = line.take(now)
    left = list(line)

    assert sorted([*batch, *lost, *left], key=id) == sorted(requests, key=id), "none lost or duplicated"
    assert line.rows == sum(request.rows for request in left)
    assert len(line) == len(left)
    if not batch:
        assert not left
        return
    rows = sum(request.rows for request in batch)
    if len(batch) > 1:
        assert joinable
        assert rows <= MAX_ROWS
        assert len({request.group for request in batch}) == 1
    assert now + cost_s(rows) <= min(request.deadline for request in batch)
    urgent = min((r for r in requests if now + cost_s(r.rows) <= r.deadline), key=lambda r: r.order)
    for request in lost:
        left_s = request.deadline - now - cost_s(request.rows)
        assert left_s < 0 or (left_s < cost_s(rows) and urgent.order <= request.order < batch[0].order)
    if batch[0] is not urgent:
        assert joinable
        assert (urgent.priority, urgent.group) == (batch[0].priority, batch[0].group)
        assert urgent.deadline < now + cost_s(rows + urgent.rows), "passed over for a batch that it could not bear"


@settings(deadline=None)
@given(REQUESTS, st.integers(0, 20))
def test_a_batch_has_room_for_nobody_who_was_left(requests, now):
    line = queue(requests)
    batch, _ = line.take(now)
    if not batch or batch[0].rows >= MAX_ROWS:
        return
    rows = sum(request.rows for request in batch)
    earliest = min(request.deadline for request in batch)
    for request in line:
        if request.group == batch[0].group and request.order > batch[0].order:
            together = rows + request.rows
            assert together > MAX_ROWS or now + cost_s(together) > min(earliest, request.deadline)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 80).map(lambda n: n / 8), min_size=MAX_ROWS, max_size=MAX_ROWS),
    st.lists(st.floats(0, 30), min_size=1, max_size=20),
)
def test_the_batch_is_the_largest_that_keeps_the_earliest_deadline(costs_s, deadlines):
    forecast = Forecast(Curve([CurvePoint({}, n, 0, 1e3 * s, 9) for n, s in enumerate(costs_s, 1)]), (), MAX_ROWS)
    costs_s = [max(costs_s[: n + 1]) for n in range(MAX_ROWS)]
    line = queue(
        [waiting(n, deadline=deadline, forecast=forecast) for n, deadline in enumerate(deadlines)], forecast=forecast
    )
    kept = sorted(deadline for deadline in deadlines if costs_s[0] <= deadline)
    batch, _ = line.take(0.0)
    most = min(len(kept), forecast.full_rows(()))
    wanted = max((n for n in range(1, most + 1) if costs_s[n - 1] <= kept[0]), default=0)
    if batch and batch[0].deadline > kept[0]:
        assert len(batch) > wanted, "only for more rows is the earliest given up"
        assert costs_s[wanted - 1] * len(batch) > 1.1 * costs_s[len(batch) - 1] * wanted, "and for more rows a second"
    else:
        assert [request.deadline for request in batch] == kept[:wanted]


def test_a_later_request_whose_deadline_would_cut_the_batch_is_passed_over():
    tight = waiting(1, deadline=cost_s(1), priority=1)
    others = [waiting(n) for n in (0, 2, 3)]
    batch, _ = queue([others[0], tight, *others[1:]]).take(0.0)
    assert batch == others


def test_a_request_at_its_edge_is_served_while_the_others_can_bear_it():
    edge, others = waiting(0, deadline=cost_s(2)), [waiting(n) for n in range(1, 9)]
    assert queue([edge, *others]).take(0.0) == ([edge, others[0]], [])


def test_a_request_at_its_edge_is_given_up_when_the_others_cannot_bear_it():
    edge = waiting(0, deadline=cost_s(2))
    others = [waiting(n, deadline=2 * cost_s(8)) for n in range(1, 17)]
    assert queue([edge, *others]).take(0.0) == (others[:8], [edge])


def test_nobody_is_given_up_for_the_less_urgent():
    edge = waiting(0, deadline=cost_s(2))
    others = [waiting(n, deadline=2 * cost_s(8), priority=1) for n in range(1, 17)]
    assert queue([edge, *others]).take(0.0) == ([edge, others[0]], [])


def test_a_request_at_its_edge_is_served_while_only_the_less_urgent_cannot_bear_it():
    edge, equals = waiting(0, deadline=cost_s(2)), [waiting(n) for n in range(1, 9)]
    less_urgent = [waiting(n, deadline=2 * cost_s(8), priority=1) for n in range(9, 30)]
    assert queue([edge, *equals, *less_urgent]).take(0.0) == ([edge, equals[0]], [])


def test_requests_at_their_edge_are_not_given_up_for_the_less_urgent():
    edges = [waiting(n, deadline=cost_s(2)) for n in range(6)]
    less_urgent = [waiting(n, priority=1) for n in range(6, 30)]
    assert queue([*edges, *less_urgent]).take(0.0) == (edges[:2], [])


def test_of_several_better_batches_the_one_that_answers_most_rows_a_second_runs():
    edge, last = waiting(0, deadline=cost_s(2)), waiting(9, deadline=cost_s(8))
    middle = [waiting(n, deadline=cost_s(5)) for n in range(1, 6)]
    assert queue([edge, *middle, last]).take(0.0) == (middle, [edge])


def test_whoever_leads_for_its_age_gives_up_nobody_more_urgent():
    aged = waiting(0, priority=1, deadline=50 + cost_s(2))
    urgent = waiting(1, deadline=50 + cost_s(2), arrived=50.0)
    others = [waiting(n, priority=1, deadline=50 + 2 * cost_s(8), arrived=50.0) for n in range(2, 18)]
    assert queue([aged, urgent, *others], ageing_s=1.0).take(50.0) == ([aged, urgent], [])


def test_nobody_is_given_up_for_fewer_rows_however_fast():
    steep = Curve([CurvePoint({}, rows, 0, 1e3 * s, 9) for rows, s in enumerate((0.1, 0.1, 3, 3, 3, 3, 3, 30), 1)])
    forecast = Forecast(steep, (), MAX_ROWS)
    edges = [waiting(n, deadline=3.0, forecast=forecast) for n in range(3)]
    others = [waiting(n, deadline=30.0, rows=2, forecast=forecast) for n in (3, 4)]
    assert queue([*edges, *others], forecast=forecast).take(0.0).batch[0] is edges[0]


def test_a_request_that_another_slot_may_still_answer_is_passed_over_but_not_given_up():
    edge = waiting(0, deadline=2.0)
    others = [waiting(n, deadline=3.25) for n in range(1, 36)]
    line = queue([edge, *others], slots=4)
    assert line.take(0.0) == (others[:8], [])
    assert edge in line


@pytest.mark.parametrize("timeout_s", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("overload", [2.0, 4.0])
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize(("fixed_s", "row_s"), [(0.004, 0.0005), (0.02, 0.00001), (0.0001, 0.001)])
def test_overload_costs_no_throughput_and_the_accepted_are_in_time(fixed_s, row_s, slots, overload, timeout_s):
    forecast = Forecast(linear_curve(fixed_s, row_s, 32), (), 32)
    noise = (0.8, 0.85, 0.9, 0.95, 1.0)
    capacity = slots * 32 / (forecast.promised_s(32, ()) * sum(noise) / len(noise))
    simulation = Simulation(forecast, Load(overload * capacity, 3.0, lambda _: timeout_s), slots, noise)
    simulation.run()
    assert simulation.in_time >= 0.93 * capacity * 3.0
    assert simulation.late == 0
    assert simulation.dropped <= 0.15 * simulation.refused, "who is refused is refused at the door"


def test_who_does_not_fit_is_passed_over_for_who_does():
    five, four, three = (waiting(n, rows=rows) for n, rows in enumerate((5, 4, 3)))
    assert queue([five, four, three]).take(0.0).batch == [five, three]


def test_a_request_larger_than_a_batch_runs_alone():
    large, small = waiting(0, rows=MAX_ROWS + 3), waiting(1)
    line = queue([large, small])
    assert line.take(0.0).batch == [large]
    assert line.take(0.0).batch == [small]


def test_a_model_that_cannot_batch_runs_one_request_at_a_time():
    requests = [waiting(n, rows=2) for n in range(3)]
    line = queue(requests, joinable=False)
    assert [line.take(0.0).batch for _ in requests] == [[request] for request in requests]


PADDED = Forecast(
    Curve(
        [
            CurvePoint({"seq": size}, rows, 0.0, 1e3 * (rows + 0.1) * size / 100, 100)
            for size in (4, 32, 128)
            for rows in range(1, MAX_ROWS + 1)
        ]
    ),
    ("seq",),
    MAX_ROWS,
)


def test_rows_are_not_padded_where_that_costs_more_than_running_twice():
    long, short, alike = (waiting(n, shape=(size,), forecast=PADDED) for n, size in enumerate((128, 4, 120)))
    line = queue([long, short, alike], forecast=PADDED)
    assert line.take(0.0).batch == [long, alike]
    assert line.take(0.0).batch == [short]


def test_a_padded_batch_is_planned_at_its_longest_row():
    short = waiting(0, shape=(100,), deadline=2.0, forecast=PADDED)
    mates = [waiting(n, shape=(128,), forecast=PADDED) for n in (1, 2)]
    assert queue([short, *mates], forecast=PADDED).take(0.0).batch == [short]
    assert queue([short, *mates], forecast=PADDED).take(-2.0).batch == [short, *mates]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(0, 9), st.floats(0, 3))
def test_the_predicted_answer_comes_when_the_queue_then_gives_it(priorities, own, remaining_s):
    request = waiting(1000, priority=own)
    line = queue([waiting(n, priority=priority) for n, priority in enumerate(priorities) if priority <= own])
    predicted_s = line.answer_s(request, [remaining_s])
    line.add(request)
    now, batch = remaining_s, []
    while request not in batch:
        batch = line.take(now).batch
        now += cost_s(len(batch))
    assert predicted_s == pytest.approx(now)


def test_who_is_less_urgent_does_not_count():
    line = queue([waiting(n, rows=8, priority=1) for n in range(5)])
    assert line.answer_s(waiting(9), [0.5]) == 0.5 + cost_s(1)


def test_the_predicted_answer_counts_other_groups_and_all_slots():
    line = queue([waiting(n, rows=8, group=group) for n, group in enumerate("abab")])
    request = waiting(9, group="c")
    assert line.answer_s(request, [0.5]) == pytest.approx(0.5 + 4 * cost_s(8) + cost_s(1))
    line = queue([waiting(n, rows=8, group=group) for n, group in enumerate("abab")], slots=2)
    assert line.answer_s(request, [0.5, 0.7]) == pytest.approx(0.5 + 2 * cost_s(8) + cost_s(1))
    assert line.drain_s([0.5, 0.7]) == pytest.approx((0.5 + 0.7 + 4 * cost_s(8)) / 2)


def test_a_request_that_the_filling_batch_cannot_take_waits_for_the_next():
    line = queue([waiting(0, rows=6)])
    assert line.answer_s(waiting(1, rows=2), [0.0]) == cost_s(8)
    assert line.answer_s(waiting(2, rows=3), [0.0]) > cost_s(8)


def test_a_slow_machine_lengthens_the_prediction_but_not_the_promise():
    forecast = Forecast(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    for _ in range(200):
        forecast.observe(8, (), 2 * cost_s(8))
    assert forecast.drift == pytest.approx(2.0)
    assert forecast.promised_s(8, ()) == cost_s(8)
    assert forecast.expected_s(8, ()) == pytest.approx(2 * cost_s(8))
    line = queue([waiting(0, rows=8)], forecast=forecast)
    assert line.answer_s(waiting(1), [0.0]) == pytest.approx(2 * cost_s(8) + 2 * cost_s(1))


def test_a_fast_machine_shortens_nothing_and_one_stall_counts_for_little():
    forecast = Forecast(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    forecast.observe(1, (), 0.0)
    assert forecast.expected_s(1, ()) == cost_s(1)
    forecast.observe(1, (), 1e6)
    assert forecast.drift < 2.0
    assert forecast.slowdown < 2.0


def test_slow_executions_are_remembered_in_predictions_for_longer_than_in_the_drift():
    forecast = Forecast(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    for _ in range(100):
        forecast.observe(1, (), 3 * cost_s(1))
    for _ in range(30):
        forecast.observe(1, (), cost_s(1))
    assert forecast.drift < 1.2
    assert forecast.expected_s(1, ()) > 2 * cost_s(1)
    for _ in range(1000):
        forecast.observe(1, (), 0.5 * cost_s(1))
    assert forecast.expected_s(1, ()) == cost_s(1)


def test_without_a_curve_nothing_is_predicted_and_nothing_refused():
    forecast = Forecast(Curve([]), (), MAX_ROWS)
    forecast.observe(1, (), 5.0)
    assert forecast.expected_s(8, ()) == 0.0
    requests = [waiting(n, deadline=0.1, forecast=forecast) for n in range(4)]
    assert queue(requests, forecast=forecast).take(0.0).batch == requests


@pytest.mark.parametrize(
    ("fixed_s", "row_s", "full"),
    [
        (1.0, 0.25, 8),
        (0.0, 0.25, 1),
        (0.01, 0.25, 2),
        (0.0, 1e-5, 8),  # what an execution costs beside the model
        (0.0, 0.0, 8),
    ],
)
def test_a_batch_is_full_where_more_rows_give_hardly_more_a_second(fixed_s, row_s, full):
    forecast = Forecast(linear_curve(fixed_s, row_s, MAX_ROWS), (), MAX_ROWS)
    assert forecast.full_rows(()) == full
    line = queue([waiting(n, forecast=forecast) for n in range(20)], forecast=forecast)
    assert len(line.take(0.0).batch) == full


def test_a_full_batch_may_end_at_the_largest_size_though_it_is_no_power_of_two():
    assert Forecast(linear_curve(1.0, 0.01, 6), (), 6).full_rows(()) == 6


def test_a_measured_dip_promises_nothing():
    dip = Curve([CurvePoint({}, 1, 0, 2e3, 9), CurvePoint({}, 2, 0, 5e3, 9), CurvePoint({}, 3, 0, 4e3, 9)])
    forecast = Forecast(dip, (), 3)
    assert [forecast.promised_s(rows, ()) for rows in (1, 2, 3)] == [2.0, 5.0, 5.0]


def test_predictions_go_on_above_the_largest_batch():
    assert FORECAST.promised_s(2 * MAX_ROWS, ()) == pytest.approx(2 * cost_s(MAX_ROWS))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60))
def test_leaving_keeps_the_books(operations):
    line = queue([])
    inside = []
    for number, (comes, which) in enumerate(operations):
        if comes or not inside:
            inside.append(waiting(number, rows=1 + which % 5, priority=which % 3, group="ab"[which % 2]))
            line.add(inside[-1])
        else:
            gone = inside.pop(which % len(inside))
            assert line.discard(gone)
            assert not line.discard(gone)
        assert list(line) == sorted(inside, key=lambda request: request.order)
        assert line.rows == sum(request.rows for request in inside)
        assert line.drain_s([0.0]) == pytest.approx(sum(request.share_s for request in inside), abs=1e-9)


class _Key:
    """A group's key that can be watched for being let go."""


def test_a_group_is_forgotten_with_its_last_request():
    key = _Key()
    watched = weakref.ref(key)
    request = waiting(0, group=key)
    line = queue([request])
    line.take(0.0)
    del request, key
    assert watched() is None
    assert not len(line)


@pytest.mark.parametrize("joinable", [True, False])
def test_low_priority_finishes_under_a_flood_of_high(joinable):
    line = queue([], joinable=joinable, ageing_s=10.0)
    low = [waiting(n, priority=5) for n in range(3)]
    for request in low:
        line.add(request)
    sequence, now, takes = 100, 0.0, 0
    while any(request in line for request in low):
        while line.rows < 5 * MAX_ROWS:  # the flood: always more than the next batches can hold
            sequence += 1
            line.add(waiting(sequence, arrived=now))
        line.take(now)
        now += 1.0
        takes += 1
        assert takes < 10 + 5 * MAX_ROWS * AGED_EVERY, "a low request starves"
    assert takes > 10, "ageing sets in after ageing_s, not before"


def test_without_ageing_it_would_starve():
    line = queue([waiting(0, priority=5)], ageing_s=math.inf)
    low = next(iter(line))
    for number in range(1, 500):
        for n in range(MAX_ROWS):
            line.add(waiting(number * MAX_ROWS + n, arrived=float(number)))
        assert low not in line.take(float(number)).batch


def test_an_urgent_request_gets_into_the_next_batch_of_an_aged_flood():
    line = queue([waiting(n, priority=5) for n in range(20 * MAX_ROWS)], ageing_s=1.0)
    for round_ in range(3 * AGED_EVERY):
        urgent = waiting(10_000 + round_, arrived=50.0)
        line.add(urgent)
        assert urgent in line.take(50.0).batch


def test_an_urgent_request_waits_for_one_aged_execution_at_most_where_nothing_joins():
    line = queue([waiting(n, priority=5) for n in range(100)], joinable=False, ageing_s=1.0)
    for round_ in range(3 * AGED_EVERY):
        urgent = waiting(10_000 + round_, arrived=50.0)
        line.add(urgent)
        assert urgent in [*line.take(50.0).batch, *line.take(50.0).batch]
        if urgent in line:
            line.discard(urgent)
