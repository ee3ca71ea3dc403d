import math
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.manifest import CurvePoint
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.batching.scheduling.latency_model import LatencyModel
from optimize.runtime.batching.scheduling.queue import QueuedRequest
from optimize.runtime.batching.scheduling.scheduler import AGED_EVERY, Scheduler
from tests.optimize.runtime.fakes import linear_curve
from tests.optimize.runtime.simulation import Load, Simulation

MAX_ROWS = 8
FIXED_S, ROW_S = 1.0, 0.25
LATENCY = LatencyModel(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)


def cost_s(rows):
    return FIXED_S + rows * ROW_S


def queued(sequence, *, rows=1, deadline=1e9, priority=0, group="a", arrived=0.0, shape=(), latency_model=LATENCY):
    return QueuedRequest((priority, deadline, sequence), arrived, rows, group, shape, latency_model)


def scheduler(requests, *, batchable=True, workers=1, ageing_s=math.inf, latency_model=LATENCY):
    made = Scheduler(latency_model, batchable=batchable, workers=workers, ageing_s=ageing_s)
    for request in requests:
        made.add(request)
    return made


def _requests(most_rows, latest, priorities, groups):
    one = st.tuples(
        st.integers(1, most_rows), st.integers(0, latest), st.sampled_from(priorities), st.sampled_from(groups)
    )
    return st.lists(one, max_size=40).map(
        lambda many: [
            queued(n, rows=rows, deadline=float(deadline), priority=priority, group=group)
            for n, (rows, deadline, priority, group) in enumerate(many)
        ]
    )


# Of every kind, and of one kind so crowded that somebody must be given up.
REQUESTS = _requests(MAX_ROWS + 2, 40, (-1, 0, 1, 2), "ab") | _requests(2, 10, (0,), "a")


@settings(deadline=None)
@given(REQUESTS, st.integers(0, 20), st.booleans())
def test_a_batch_keeps_every_promise(requests, now, batchable):
    scheduled = scheduler(requests, batchable=batchable)
    batch, dropped = scheduled.next_batch(now)
    left = list(scheduled)

    assert sorted([*batch, *dropped, *left], key=id) == sorted(requests, key=id), "none lost or duplicated"
    assert scheduled.rows == sum(request.rows for request in left)
    assert len(scheduled) == len(left)
    if not batch:
        assert not left
        return
    rows = sum(request.rows for request in batch)
    if len(batch) > 1:
        assert batchable
        assert rows <= MAX_ROWS
        assert len({request.group for request in batch}) == 1
    assert now + cost_s(rows) <= min(request.deadline for request in batch)
    urgent = min((r for r in requests if now + cost_s(r.rows) <= r.deadline), key=lambda r: r.order)
    for request in dropped:
        left_s = request.deadline - now - cost_s(request.rows)
        assert left_s < 0 or (left_s < cost_s(rows) and urgent.order <= request.order < batch[0].order)
    if batch[0] is not urgent:
        assert batchable
        assert (urgent.priority, urgent.group) == (batch[0].priority, batch[0].group)
        assert urgent.deadline < now + cost_s(rows + urgent.rows), "passed over for a batch that it could not bear"


@settings(deadline=None)
@given(REQUESTS, st.integers(0, 20))
def test_a_batch_has_no_room_for_the_requests_left(requests, now):
    scheduled = scheduler(requests)
    batch, _ = scheduled.next_batch(now)
    if not batch or batch[0].rows >= MAX_ROWS:
        return
    rows = sum(request.rows for request in batch)
    earliest = min(request.deadline for request in batch)
    for request in scheduled:
        if request.group == batch[0].group and request.order > batch[0].order:
            together = rows + request.rows
            assert together > MAX_ROWS or now + cost_s(together) > min(earliest, request.deadline)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 80).map(lambda n: n / 8), min_size=MAX_ROWS, max_size=MAX_ROWS),
    st.lists(st.floats(0, 30), min_size=1, max_size=20),
)
def test_the_batch_is_the_largest_that_keeps_the_earliest_deadline(costs_s, deadlines):
    latency_model = LatencyModel(
        Curve([CurvePoint({}, n, 0, 1e3 * s, 9) for n, s in enumerate(costs_s, 1)]), (), MAX_ROWS
    )
    costs_s = [max(costs_s[: n + 1]) for n in range(MAX_ROWS)]
    scheduled = scheduler(
        [queued(n, deadline=deadline, latency_model=latency_model) for n, deadline in enumerate(deadlines)],
        latency_model=latency_model,
    )
    kept = sorted(deadline for deadline in deadlines if costs_s[0] <= deadline)
    batch, _ = scheduled.next_batch(0.0)
    most = min(len(kept), latency_model.full_rows(()))
    wanted = max((n for n in range(1, most + 1) if costs_s[n - 1] <= kept[0]), default=0)
    if batch and batch[0].deadline > kept[0]:
        assert len(batch) > wanted, "only for more rows is the earliest given up"
        assert costs_s[wanted - 1] * len(batch) > 1.1 * costs_s[len(batch) - 1] * wanted, "and for more rows a second"
    else:
        assert [request.deadline for request in batch] == kept[:wanted]


def test_a_later_request_whose_deadline_would_cut_the_batch_is_passed_over():
    tight = queued(1, deadline=cost_s(1), priority=1)
    others = [queued(n) for n in (0, 2, 3)]
    batch, _ = scheduler([others[0], tight, *others[1:]]).next_batch(0.0)
    assert batch == others


def test_a_request_at_its_edge_is_served_while_the_others_can_bear_it():
    edge, others = queued(0, deadline=cost_s(2)), [queued(n) for n in range(1, 9)]
    assert scheduler([edge, *others]).next_batch(0.0) == ([edge, others[0]], [])


def test_a_request_at_its_edge_is_given_up_when_the_others_cannot_bear_it():
    edge = queued(0, deadline=cost_s(2))
    others = [queued(n, deadline=2 * cost_s(8)) for n in range(1, 17)]
    assert scheduler([edge, *others]).next_batch(0.0) == (others[:8], [edge])


def test_no_request_is_given_up_for_less_urgent_ones():
    edge = queued(0, deadline=cost_s(2))
    others = [queued(n, deadline=2 * cost_s(8), priority=1) for n in range(1, 17)]
    assert scheduler([edge, *others]).next_batch(0.0) == ([edge, others[0]], [])


def test_a_request_at_its_edge_is_served_while_only_the_less_urgent_cannot_bear_it():
    edge, equals = queued(0, deadline=cost_s(2)), [queued(n) for n in range(1, 9)]
    less_urgent = [queued(n, deadline=2 * cost_s(8), priority=1) for n in range(9, 30)]
    assert scheduler([edge, *equals, *less_urgent]).next_batch(0.0) == ([edge, equals[0]], [])


def test_requests_at_their_edge_are_not_given_up_for_the_less_urgent():
    edges = [queued(n, deadline=cost_s(2)) for n in range(6)]
    less_urgent = [queued(n, priority=1) for n in range(6, 30)]
    assert scheduler([*edges, *less_urgent]).next_batch(0.0) == (edges[:2], [])


def test_of_several_better_batches_the_one_that_answers_most_rows_a_second_runs():
    edge, last = queued(0, deadline=cost_s(2)), queued(9, deadline=cost_s(8))
    middle = [queued(n, deadline=cost_s(5)) for n in range(1, 6)]
    assert scheduler([edge, *middle, last]).next_batch(0.0) == (middle, [edge])


def test_a_request_that_leads_for_its_age_gives_up_none_more_urgent():
    aged = queued(0, priority=1, deadline=50 + cost_s(2))
    urgent = queued(1, deadline=50 + cost_s(2), arrived=50.0)
    others = [queued(n, priority=1, deadline=50 + 2 * cost_s(8), arrived=50.0) for n in range(2, 18)]
    assert scheduler([aged, urgent, *others], ageing_s=1.0).next_batch(50.0) == ([aged, urgent], [])


def test_no_request_is_given_up_for_fewer_rows_however_fast():
    steep = Curve([CurvePoint({}, rows, 0, 1e3 * s, 9) for rows, s in enumerate((0.1, 0.1, 3, 3, 3, 3, 3, 30), 1)])
    latency_model = LatencyModel(steep, (), MAX_ROWS)
    edges = [queued(n, deadline=3.0, latency_model=latency_model) for n in range(3)]
    others = [queued(n, deadline=30.0, rows=2, latency_model=latency_model) for n in (3, 4)]
    assert scheduler([*edges, *others], latency_model=latency_model).next_batch(0.0).batch[0] is edges[0]


def test_a_request_that_another_slot_may_still_answer_is_passed_over_but_not_given_up():
    edge = queued(0, deadline=2.0)
    others = [queued(n, deadline=3.25) for n in range(1, 36)]
    scheduled = scheduler([edge, *others], workers=4)
    assert scheduled.next_batch(0.0) == (others[:8], [])
    assert edge in scheduled


@pytest.mark.parametrize("timeout_s", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("overload", [2.0, 4.0])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("fixed_s", "row_s"), [(0.004, 0.0005), (0.02, 0.00001), (0.0001, 0.001)])
def test_overload_costs_no_throughput_and_the_accepted_are_in_time(fixed_s, row_s, workers, overload, timeout_s):
    latency_model = LatencyModel(linear_curve(fixed_s, row_s, 32), (), 32)
    noise = (0.8, 0.85, 0.9, 0.95, 1.0)
    capacity = workers * 32 / (latency_model.promised_s(32, ()) * sum(noise) / len(noise))
    simulation = Simulation(latency_model, Load(overload * capacity, 3.0, lambda _: timeout_s), workers, noise)
    simulation.run()
    assert simulation.in_time >= 0.93 * capacity * 3.0
    assert simulation.late == 0
    assert simulation.dropped <= 0.15 * simulation.refused, "who is refused is refused at the door"


def test_who_does_not_fit_is_passed_over_for_who_does():
    five, four, three = (queued(n, rows=rows) for n, rows in enumerate((5, 4, 3)))
    assert scheduler([five, four, three]).next_batch(0.0).batch == [five, three]


def test_a_request_larger_than_a_batch_runs_alone():
    large, small = queued(0, rows=MAX_ROWS + 3), queued(1)
    scheduled = scheduler([large, small])
    assert scheduled.next_batch(0.0).batch == [large]
    assert scheduled.next_batch(0.0).batch == [small]


def test_a_model_that_cannot_batch_runs_one_request_at_a_time():
    requests = [queued(n, rows=2) for n in range(3)]
    scheduled = scheduler(requests, batchable=False)
    assert [scheduled.next_batch(0.0).batch for _ in requests] == [[request] for request in requests]


PADDED = LatencyModel(
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
    long, short, alike = (queued(n, shape=(size,), latency_model=PADDED) for n, size in enumerate((128, 4, 120)))
    scheduled = scheduler([long, short, alike], latency_model=PADDED)
    assert scheduled.next_batch(0.0).batch == [long, alike]
    assert scheduled.next_batch(0.0).batch == [short]


def test_a_padded_batch_is_planned_at_its_longest_row():
    short = queued(0, shape=(100,), deadline=2.0, latency_model=PADDED)
    mates = [queued(n, shape=(128,), latency_model=PADDED) for n in (1, 2)]
    assert scheduler([short, *mates], latency_model=PADDED).next_batch(0.0).batch == [short]
    assert scheduler([short, *mates], latency_model=PADDED).next_batch(-2.0).batch == [short, *mates]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(0, 9), st.floats(0, 3))
def test_the_predicted_answer_comes_when_the_queue_then_gives_it(priorities, own, remaining_s):
    request = queued(1000, priority=own)
    scheduled = scheduler([queued(n, priority=priority) for n, priority in enumerate(priorities) if priority <= own])
    predicted_s = scheduled.answer_s(request, [remaining_s])
    scheduled.add(request)
    now, batch = remaining_s, []
    while request not in batch:
        batch = scheduled.next_batch(now).batch
        now += cost_s(len(batch))
    assert predicted_s == pytest.approx(now)


def test_who_is_less_urgent_does_not_count():
    scheduled = scheduler([queued(n, rows=8, priority=1) for n in range(5)])
    assert scheduled.answer_s(queued(9), [0.5]) == 0.5 + cost_s(1)


def test_the_predicted_answer_counts_other_groups_and_all_slots():
    scheduled = scheduler([queued(n, rows=8, group=group) for n, group in enumerate("abab")])
    request = queued(9, group="c")
    assert scheduled.answer_s(request, [0.5]) == pytest.approx(0.5 + 4 * cost_s(8) + cost_s(1))
    scheduled = scheduler([queued(n, rows=8, group=group) for n, group in enumerate("abab")], workers=2)
    assert scheduled.answer_s(request, [0.5, 0.7]) == pytest.approx(0.5 + 2 * cost_s(8) + cost_s(1))
    assert scheduled.drain_s([0.5, 0.7]) == pytest.approx((0.5 + 0.7 + 4 * cost_s(8)) / 2)


def test_a_request_that_the_filling_batch_cannot_take_waits_for_the_next():
    scheduled = scheduler([queued(0, rows=6)])
    assert scheduled.answer_s(queued(1, rows=2), [0.0]) == cost_s(8)
    assert scheduled.answer_s(queued(2, rows=3), [0.0]) > cost_s(8)


def test_a_slow_machine_lengthens_the_prediction_but_not_the_promise():
    latency_model = LatencyModel(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    for _ in range(200):
        latency_model.observe(8, (), 2 * cost_s(8))
    assert latency_model.drift == pytest.approx(2.0)
    assert latency_model.promised_s(8, ()) == cost_s(8)
    assert latency_model.expected_s(8, ()) == pytest.approx(2 * cost_s(8))
    scheduled = scheduler([queued(0, rows=8)], latency_model=latency_model)
    assert scheduled.answer_s(queued(1), [0.0]) == pytest.approx(2 * cost_s(8) + 2 * cost_s(1))


def test_a_fast_machine_shortens_nothing_and_one_stall_counts_for_little():
    latency_model = LatencyModel(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    latency_model.observe(1, (), 0.0)
    assert latency_model.expected_s(1, ()) == cost_s(1)
    latency_model.observe(1, (), 1e6)
    assert latency_model.drift < 2.0
    assert latency_model.slowdown < 2.0


def test_slow_executions_are_remembered_in_predictions_for_longer_than_in_the_drift():
    latency_model = LatencyModel(linear_curve(FIXED_S, ROW_S, MAX_ROWS), (), MAX_ROWS)
    for _ in range(100):
        latency_model.observe(1, (), 3 * cost_s(1))
    for _ in range(30):
        latency_model.observe(1, (), cost_s(1))
    assert latency_model.drift < 1.2
    assert latency_model.expected_s(1, ()) > 2 * cost_s(1)
    for _ in range(1000):
        latency_model.observe(1, (), 0.5 * cost_s(1))
    assert latency_model.expected_s(1, ()) == cost_s(1)


def test_without_a_curve_nothing_is_predicted_and_nothing_refused():
    latency_model = LatencyModel(Curve([]), (), MAX_ROWS)
    latency_model.observe(1, (), 5.0)
    assert latency_model.expected_s(8, ()) == 0.0
    requests = [queued(n, deadline=0.1, latency_model=latency_model) for n in range(4)]
    assert scheduler(requests, latency_model=latency_model).next_batch(0.0).batch == requests


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
    latency_model = LatencyModel(linear_curve(fixed_s, row_s, MAX_ROWS), (), MAX_ROWS)
    assert latency_model.full_rows(()) == full
    scheduled = scheduler([queued(n, latency_model=latency_model) for n in range(20)], latency_model=latency_model)
    assert len(scheduled.next_batch(0.0).batch) == full


def test_a_full_batch_may_end_at_the_largest_size_though_it_is_no_power_of_two():
    assert LatencyModel(linear_curve(1.0, 0.01, 6), (), 6).full_rows(()) == 6


def test_a_measured_dip_promises_nothing():
    dip = Curve([CurvePoint({}, 1, 0, 2e3, 9), CurvePoint({}, 2, 0, 5e3, 9), CurvePoint({}, 3, 0, 4e3, 9)])
    latency_model = LatencyModel(dip, (), 3)
    assert [latency_model.promised_s(rows, ()) for rows in (1, 2, 3)] == [2.0, 5.0, 5.0]


def test_predictions_go_on_above_the_largest_batch():
    assert LATENCY.promised_s(2 * MAX_ROWS, ()) == pytest.approx(2 * cost_s(MAX_ROWS))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=60))
def test_leaving_keeps_the_books(operations):
    scheduled = scheduler([])
    inside = []
    for number, (comes, which) in enumerate(operations):
        if comes or not inside:
            inside.append(queued(number, rows=1 + which % 5, priority=which % 3, group="ab"[which % 2]))
            scheduled.add(inside[-1])
        else:
            gone = inside.pop(which % len(inside))
            assert scheduled.discard(gone)
            assert not scheduled.discard(gone)
        assert list(scheduled) == sorted(inside, key=lambda request: request.order)
        assert scheduled.rows == sum(request.rows for request in inside)
        assert scheduled.drain_s([0.0]) == pytest.approx(sum(request.share_s for request in inside), abs=1e-9)


class _Key:
    """A group's key that can be watched for being let go."""


def test_a_group_is_forgotten_with_its_last_request():
    key = _Key()
    watched = weakref.ref(key)
    request = queued(0, group=key)
    scheduled = scheduler([request])
    scheduled.next_batch(0.0)
    del request, key
    assert watched() is None
    assert not len(scheduled)


@pytest.mark.parametrize("batchable", [True, False])
def test_low_priority_finishes_under_a_flood_of_high(batchable):
    scheduled = scheduler([], batchable=batchable, ageing_s=10.0)
    low = [queued(n, priority=5) for n in range(3)]
    for request in low:
        scheduled.add(request)
    sequence, now, takes = 100, 0.0, 0
    while any(request in scheduled for request in low):
        while scheduled.rows < 5 * MAX_ROWS:  # the flood: always more than the next batches can hold
            sequence += 1
            scheduled.add(queued(sequence, arrived=now))
        scheduled.next_batch(now)
        now += 1.0
        takes += 1
        assert takes < 10 + 5 * MAX_ROWS * AGED_EVERY, "a low request starves"
    assert takes > 10, "ageing sets in after ageing_s, not before"


def test_without_ageing_it_would_starve():
    scheduled = scheduler([queued(0, priority=5)], ageing_s=math.inf)
    low = next(iter(scheduled))
    for number in range(1, 500):
        for n in range(MAX_ROWS):
            scheduled.add(queued(number * MAX_ROWS + n, arrived=float(number)))
        assert low not in scheduled.next_batch(float(number)).batch


def test_an_urgent_request_gets_into_the_next_batch_of_an_aged_flood():
    scheduled = scheduler([queued(n, priority=5) for n in range(20 * MAX_ROWS)], ageing_s=1.0)
    for round_ in range(3 * AGED_EVERY):
        urgent = queued(10_000 + round_, arrived=50.0)
        scheduled.add(urgent)
        assert urgent in scheduled.next_batch(50.0).batch


def test_an_urgent_request_waits_for_one_aged_execution_at_most_where_nothing_joins():
    scheduled = scheduler([queued(n, priority=5) for n in range(100)], batchable=False, ageing_s=1.0)
    for round_ in range(3 * AGED_EVERY):
        urgent = queued(10_000 + round_, arrived=50.0)
        scheduled.add(urgent)
        assert urgent in [*scheduled.next_batch(50.0).batch, *scheduled.next_batch(50.0).batch]
        if urgent in scheduled:
            scheduled.discard(urgent)
