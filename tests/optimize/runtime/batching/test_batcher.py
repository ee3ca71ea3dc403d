import asyncio
import os
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from optimize.manifest import CurvePoint, Signature, TensorSpec
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.calls import Answer
from optimize.runtime.batching.dispatcher import MARGIN, Execution
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import DeadlineExceeded, QueueFull
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.batching.worker import WORKER_NICENESS
from tests.optimize.runtime.driving import CURVE, MAX_BATCH, OPTIONS, admitted, calls, cost_s, gated, until
from tests.optimize.runtime.fakes import (
    PATIENCE_S,
    FakeClock,
    FakeSession,
    GatedSession,
    answer,
    request,
    rows_signature,
)


async def _an_idle_worker_never_waits_for_a_fuller_batch():
    async with gated() as (batcher, session, _):
        tasks = calls(batcher, range(5))
        await until(lambda: session.inside)
        assert session.ran == [[0]], "the first runs at once and alone"
        assert (batcher.running, batcher.queued_rows) == (1, 4)
        session.release(2)
        answers = await asyncio.gather(*tasks)
        assert session.ran == [[0], [1, 2, 3, 4]], "the others share what follows"
        assert [a.batch_rows for a in answers] == [1, 4, 4, 4, 4]
        await until(lambda: batcher.running == 0)


def test_an_idle_worker_never_waits_for_a_fuller_batch():
    asyncio.run(_an_idle_worker_never_waits_for_a_fuller_batch())


async def _a_batch_is_formed_when_the_worker_is_free_and_not_before():
    async with gated() as (batcher, session, _):
        tasks = calls(batcher, range(3))
        await until(lambda: session.inside)
        late = calls(batcher, [99], priority=-1)
        await admitted()
        session.release(2)
        await asyncio.gather(*tasks, *late)
        assert session.ran == [[0], [99, 1, 2]], "who came while the model was busy is in, and in order"


def test_a_batch_is_formed_when_the_worker_is_free_and_not_before():
    asyncio.run(_a_batch_is_formed_when_the_worker_is_free_and_not_before())


async def _each_session_has_a_worker():
    async with gated(workers=2) as (batcher, sessions, _):
        tasks = calls(batcher, range(4))
        await until(lambda: all(session.inside for session in sessions))
        assert (batcher.running, batcher.queued_rows) == (2, 2)
        for session in sessions:
            session.release(2)
        await asyncio.gather(*tasks)
        assert sum(len(session.ran) for session in sessions) == 3


def test_each_session_has_a_worker_that_runs_one_batch_at_a_time():
    asyncio.run(_each_session_has_a_worker())


async def _the_model_never_runs_on_the_loop():
    ran_on = set()

    class Session(FakeSession):
        def enter(self, rows):
            ran_on.add(threading.get_ident())
            super().enter(rows)

    async with Batcher([Session(), Session()], rows_signature(8), CURVE, OPTIONS) as batcher:
        await asyncio.gather(*(batcher.submit(request(n), 1) for n in range(50)))
    assert ran_on
    assert threading.get_ident() not in ran_on


def test_the_model_never_runs_on_the_loop():
    asyncio.run(_the_model_never_runs_on_the_loop())


async def _a_model_without_a_batch_axis_runs_requests_one_at_a_time():
    signature = Signature((TensorSpec("x", "int64", ("n", 1)),), (TensorSpec("y", "int64", ("n", 1)),))
    session = FakeSession()
    async with Batcher([session], signature, Curve([]), OPTIONS) as batcher:
        answers = await asyncio.gather(*(batcher.submit(request(n, 2), 1) for n in range(6)))
    assert [len(rows) for rows in session.ran] == [2] * 6
    for n, got in enumerate(answers):
        np.testing.assert_array_equal(got.outputs["y"], answer(n, 2))


def test_a_model_without_a_batch_axis_runs_requests_one_at_a_time():
    asyncio.run(_a_model_without_a_batch_axis_runs_requests_one_at_a_time())


# Deadlines, cancellation, bounds


async def _what_cannot_be_met_is_refused_at_the_door():
    async with gated() as (batcher, session, clock):
        with pytest.raises(DeadlineExceeded, match=r"1\.200 s are left, but an answer may take 1\.250 s"):
            await batcher.submit(request(0), 1, deadline=1.2)
        running = calls(batcher, [1])
        await until(lambda: session.inside)
        with pytest.raises(DeadlineExceeded, match=r"may take 3\.000 s"):  # 1.2 times 2.5 s, as it must wait
            await batcher.submit(request(2), 1, deadline=2.9)
        met = calls(batcher, [3], deadline=3.0)
        await admitted()
        session.release(2)
        await asyncio.gather(*running, *met)
        assert session.ran == [[1], [3]]
        assert clock.now == 2.5
        assert batcher.counters.calls["infeasible"] == 2


def test_what_cannot_be_met_is_refused_at_the_door_and_never_run():
    asyncio.run(_what_cannot_be_met_is_refused_at_the_door())


def told(batcher, deadline):
    """What a request that came now would be told unread, as it must be refused."""
    tell = batcher.refusal(deadline)
    assert tell is not None
    return tell()


async def _who_need_not_be_read():
    async with gated() as (batcher, session, clock):
        assert batcher.refusal(clock.now) is None, "an idle worker takes any call"
        running = calls(batcher, [0])
        await until(lambda: session.inside)
        assert batcher.refusal(2.9) is None, "nobody came to the door so far, and nobody knows"
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(request(1), 1, deadline=2.9)
        assert isinstance(told(batcher, 2.9), DeadlineExceeded)
        assert batcher.refusal(3.0) is None, "who has as much time as that one wanted"
        assert batcher.refusal(None) is None, "the default is longer"
        met = calls(batcher, [2], deadline=3.0)
        await admitted()
        assert isinstance(told(batcher, 3.2), DeadlineExceeded), "of two that wait, both take 1.2 times 2.75 s"
        session.release()
        await until(lambda: batcher.queued_rows == 0)
        assert batcher.refusal(2.9) is None, "a batch was taken, and nobody came since"
        session.release()
        await asyncio.gather(*running, *met)
        assert batcher.counters.calls["infeasible"] == 1


def test_a_request_that_would_be_refused_like_the_last_one_need_not_be_read():
    asyncio.run(_who_need_not_be_read())


async def _a_larger_or_less_urgent_one_is_refused():
    async with gated() as (batcher, session, _):
        running = calls(batcher, [0])
        await until(lambda: session.inside)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(request(1, 8), 8, deadline=5.0)
        assert batcher.refusal(5.0) is None, "a smaller one may be taken"
        assert isinstance(told(batcher, 2.9), DeadlineExceeded), "a single row takes 1.2 times 2.5 s"
        running += calls(batcher, range(2, 10), deadline=9.0)
        await admitted()
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(request(1), 1, deadline=3.1, priority=1)
        assert batcher.refusal(3.1) is None, "a more urgent one may be taken"
        session.release(3)
        await asyncio.gather(*running)


def test_a_large_or_less_urgent_refused_request_counts_as_a_single_row_of_the_most_urgent():
    asyncio.run(_a_larger_or_less_urgent_one_is_refused())


def _of_length(length):
    return {"x": np.zeros((1, length), np.int64)}


async def _the_smallest_counts():
    signature = Signature(
        (TensorSpec("x", "int64", ("batch", "length")),), (TensorSpec("y", "int64", ("batch", "length")),)
    )
    curve = Curve([CurvePoint({"length": length}, 1, 0.0, 1e3 * length, 100) for length in (1, 4)])
    clock = FakeClock()
    session = GatedSession(clock, 1.0, 0.0)
    async with Batcher([session], signature, curve, OPTIONS, clock) as batcher:
        tasks = [asyncio.create_task(batcher.submit(_of_length(1), 1))]
        await until(lambda: session.inside)
        for waits in (False, True):
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(_of_length(4), 1, deadline=5.9)  # 1.2 times 5 s
            assert (batcher.refusal(5.9) is None) is waits, "once a short one came, an unread one is taken for its like"
            tasks.append(asyncio.create_task(batcher.submit(_of_length(1), 1)))
            await admitted()
        session.release(3)
        await asyncio.gather(*tasks)


def test_an_unread_request_is_taken_for_the_shortest_that_came():
    asyncio.run(_the_smallest_counts())


async def _freeing_a_place():
    async with gated() as (batcher, session, _):
        running, waiting = calls(batcher, [0]), calls(batcher, [1], deadline=3.1)
        await until(lambda: session.inside and batcher.queued_rows == 1)
        assert isinstance(told(batcher, 3.2), DeadlineExceeded)
        waiting[0].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert batcher.refusal(3.2) is None
        session.release()
        await asyncio.gather(*running)


def test_a_place_that_becomes_free_is_for_the_next_requests():
    asyncio.run(_freeing_a_place())


async def _a_full_queue():
    async with gated(replace(OPTIONS, max_queue_rows=1)) as (batcher, session, _):
        running = calls(batcher, [0])
        await until(lambda: session.inside)
        assert batcher.refusal(None) is None
        waiting = calls(batcher, [1])
        await admitted()
        refusal = told(batcher, None)
        assert isinstance(refusal, QueueFull)
        assert refusal.retry_after_s == cost_s(1) + cost_s(8) / 8, "what runs, and a share of a full batch"
        session.release(2)
        await asyncio.gather(*running, *waiting)


def test_no_request_is_read_while_the_queue_is_full():
    asyncio.run(_a_full_queue())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux alone")
def test_the_loop_goes_before_the_model():
    nicenesses = []

    class Nosy(FakeSession):
        def run(self, inputs, outputs=None):
            nicenesses.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().run(inputs, outputs)

    async def story():
        async with Batcher([Nosy()], rows_signature(MAX_BATCH), CURVE, OPTIONS) as batcher:
            await batcher.submit(request(0), 1)

    asyncio.run(story())
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert nicenesses == [min(ours + WORKER_NICENESS, 19)]


async def _work_is_spread_over_all_workers():
    async with gated(workers=2) as (batcher, sessions, _):
        running = calls(batcher, [0, 1])
        await until(lambda: all(session.inside for session in sessions))
        ahead = [asyncio.create_task(batcher.submit(request(n, MAX_BATCH), MAX_BATCH)) for n in (2, 3)]
        await admitted()
        predicted_s = cost_s(1) + 2 * cost_s(MAX_BATCH) / 2 + cost_s(1)
        met = calls(batcher, [4], deadline=MARGIN * predicted_s, priority=1)
        await admitted()
        assert batcher.queued_rows == 2 * MAX_BATCH + 1, "with one worker it would be refused"
        for session in sessions:
            session.release(10)
        await asyncio.gather(*running, *ahead)
        await asyncio.gather(*met, return_exceptions=True)


def test_a_predicted_wait_counts_on_all_workers():
    asyncio.run(_work_is_spread_over_all_workers())


async def _a_deadline_that_ends_in_the_queue():
    session = GatedSession(FakeClock(), 0.0, 0.0)
    async with Batcher([session], rows_signature(8), Curve([]), OPTIONS) as batcher:
        running = calls(batcher, [1])
        await until(lambda: session.inside)
        start = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"not run within the 0\.020 s"):
            await batcher.submit(request(2), 1, deadline=start + 0.02)
        assert time.monotonic() - start < 5.0, "it ends at its deadline, not when the worker is free"
        assert batcher.queued_rows == 0, "its place is free at once"
        session.release()
        await asyncio.gather(*running)
    assert session.ran == [[1]]
    assert batcher.counters.calls["expired"] == 1


def test_a_deadline_that_passes_in_the_queue_is_reported_at_once_and_never_run():
    asyncio.run(_a_deadline_that_ends_in_the_queue())


async def _a_deadline_that_ends_while_running():
    session = GatedSession(FakeClock(), 0.0, 0.0)
    async with Batcher([session], rows_signature(8), Curve([]), OPTIONS) as batcher:
        first = calls(batcher, [0])
        await until(lambda: session.inside)
        mates = calls(batcher, [1, 2])
        late = calls(batcher, [3], deadline=time.monotonic() + 0.05)
        await admitted()
        session.release()
        await until(lambda: len(session.ran) == 2)
        with pytest.raises(DeadlineExceeded, match="still running after"):
            await late[0]
        session.release()
        await asyncio.gather(*first, *mates)
        assert batcher.counters.calls["late"] == 1
    assert session.ran == [[0], [3, 1, 2]]


def test_a_deadline_that_ends_while_running_costs_its_mates_nothing():
    asyncio.run(_a_deadline_that_ends_while_running())


async def _no_deadline_means_the_default():
    options = BatcherOptions(MAX_BATCH, 1000, default_timeout_s=5000.0)
    async with gated(options) as (batcher, session, clock):
        tasks = calls(batcher, [0, 1])
        await until(lambda: session.inside)
        clock.now = 5000.0
        session.release()
        await tasks[0]
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(tasks[1], PATIENCE_S)
        assert session.ran == [[0]]


def test_a_request_without_a_deadline_gets_the_default():
    asyncio.run(_no_deadline_means_the_default())


async def _cancelling_frees_the_place():
    options = BatcherOptions(MAX_BATCH, max_queue_rows=2, default_timeout_s=1000.0)
    async with gated(options) as (batcher, session, _):
        running, gone, *_ = tasks = calls(batcher, [0, 1, 2])
        await until(lambda: session.inside)
        with pytest.raises(QueueFull):
            await batcher.submit(request(3), 1)
        gone.cancel()
        await admitted()
        assert batcher.queued_rows == 1
        late = calls(batcher, [4])
        running.cancel()
        await admitted()
        session.release(2)
        results = await asyncio.gather(*tasks, *late, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2 + [Answer] * 2
        assert session.ran == [[0], [2, 4]]
        assert batcher.counters.calls["cancelled"] == 2


def test_cancelling_frees_the_place_and_is_not_run():
    asyncio.run(_cancelling_frees_the_place())


async def _cancelling_in_the_moment_of_starting():
    session = FakeSession()
    async with Batcher([session], rows_signature(8), CURVE, OPTIONS) as batcher:
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(10.0)  # the worker cannot begin before the loop rests
        try:
            tasks = calls(batcher, [0])
            await asyncio.sleep(0)
            assert batcher.running == 1
            tasks[0].cancel()
        finally:
            sys.setswitchinterval(switch_interval_s)
        await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.submit(request(1), 1)
    assert session.ran[-1] == [1]
    return session.ran[0] == [1]


def test_cancelling_in_the_moment_of_starting_is_in_time():
    assert any(asyncio.run(_cancelling_in_the_moment_of_starting()) for _ in range(20))


async def _low_priority_finishes():
    options = BatcherOptions(2, 1000, 1000.0, ageing_s=5.0)
    async with gated(options) as (batcher, session, clock):
        low = calls(batcher, [0, 1], priority=9)
        await until(lambda: session.inside)
        flood = []
        while not low[1].done():
            flood += calls(batcher, range(100 + len(flood), 102 + len(flood)))
            await admitted()
            left = session.left
            session.release()
            await until(lambda: session.left > left and session.inside)  # noqa: B023 - called in this turn only
        assert 5.0 <= clock.now < 12.0
        session.release(1000)
        await asyncio.gather(*low, *flood)


def test_low_priority_finishes_under_a_flood_of_high():
    asyncio.run(_low_priority_finishes())


async def _the_queue_is_bounded():
    options = BatcherOptions(MAX_BATCH, max_queue_rows=6, default_timeout_s=1000.0)
    async with gated(options) as (batcher, session, _):
        tasks = [asyncio.create_task(batcher.submit(request(n, 3), 3)) for n in range(3)]
        await until(lambda: session.inside)
        assert batcher.queued_rows == 6
        with pytest.raises(QueueFull, match="6 rows wait, and 1 more would exceed 6") as refused:
            await batcher.submit(request(9), 1)
        # What runs (3 rows) and the share that 6 rows have of a full batch.
        drained_s = cost_s(3) + 6 / 8 * cost_s(8)
        assert refused.value.retry_after_s == pytest.approx(drained_s)
        with pytest.raises(QueueFull) as refused:
            await batcher.submit(request(9), 1)
        assert refused.value.retry_after_s == pytest.approx(drained_s + MARGIN * cost_s(8) / 8), "after the one before"
        session.release(2)
        await asyncio.gather(*tasks)
        assert batcher.counters.calls["queue_full"] == 2


def test_the_queue_is_bounded_in_rows_and_says_when_to_retry():
    asyncio.run(_the_queue_is_bounded())


async def _an_idle_worker_needs_no_queue():
    async with gated(BatcherOptions(MAX_BATCH, 0, 1000.0)) as (batcher, session, _):
        running = calls(batcher, [0])
        await until(lambda: session.inside)
        with pytest.raises(QueueFull):
            await batcher.submit(request(1), 1)
        session.release()
        await asyncio.gather(*running)


def test_an_idle_worker_takes_what_a_queue_could_not_hold():
    asyncio.run(_an_idle_worker_needs_no_queue())


async def _the_accepted_meet_their_deadline():
    async with gated() as (batcher, session, clock):
        submitted = [asyncio.create_task(batcher.submit(request(n), 1, deadline=9.0)) for n in range(100)]
        await admitted()
        session.release(1000)
        results = await asyncio.gather(*submitted, return_exceptions=True)
        met = [result for result in results if isinstance(result, Answer)]
        assert clock.now <= 9.0
        assert list(map(len, session.ran)) == [1, 8, 8], (
            "1.25 s and twice 3 s: for one more, 1.2 times 8.5 s must be left"
        )
        assert batcher.counters.calls["infeasible"] == 100 - len(met), "the others were refused at the door, not later"


def test_under_overload_the_accepted_meet_their_deadline_and_the_rest_is_refused():
    asyncio.run(_the_accepted_meet_their_deadline())


def test_it_reports_running_executions_and_counts_finished_ones():
    async def story():
        async with gated(workers=2) as (batcher, sessions, clock):
            assert batcher.workers == 2
            assert batcher.executing() == []
            tasks = calls(batcher, [1])
            await until(lambda: any(session.inside for session in sessions))
            clock.now += 5.0
            assert batcher.executing() == [Execution(elapsed_s=5.0, promised_s=cost_s(1))]
            for session in sessions:
                session.release()
            await asyncio.gather(*tasks)
            await until(lambda: not batcher.executing())
            assert batcher.counters.executions == batcher.counters.execution_s.count == 1
            assert batcher.counters.rows == 1
            assert batcher.counters.busy_s == 5.0 + cost_s(1)

    asyncio.run(story())
