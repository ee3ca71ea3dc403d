import asyncio
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.errors import ExecutionError
from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.calls import Answer
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import Closed, DeadlineExceeded
from optimize.runtime.batching.scheduling.curve import Curve
from optimize.runtime.batching.worker import RUNS_PER_HALVING
from tests.optimize.runtime.driving import CURVE, OPTIONS, admitted, calls, gated, until
from tests.optimize.runtime.fakes import (
    PATIENCE_S,
    FakeClock,
    FakeSession,
    GatedSession,
    PoisonError,
    answer,
    request,
    rows_signature,
)


async def _poison(numbers, poison):
    """Submit `numbers` so that they share one batch; the results, and the executions it took."""
    async with gated(BatcherOptions(64, 1000, 1000.0), poison=poison, curve=Curve([]), max_batch=64) as (
        batcher,
        session,
        _,
    ):
        first = calls(batcher, [5000])
        await until(lambda: session.inside)
        tasks = calls(batcher, numbers)
        await admitted()
        session.release(1000)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await first[0]
        await batcher.drain()
        assert batcher.counters.failed_executions == len(session.ran) - len(session.succeeded)
        return results, session.ran[1:]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=4))))
def test_a_failing_row_is_isolated_and_its_mates_are_answered(case):
    size, poison = case
    results, ran = asyncio.run(_poison(range(size), poison))
    for number, result in enumerate(results):
        if number in poison:
            assert isinstance(result, PoisonError)
            assert str(result) == f"cannot bear [{number}]", "its own error, not a mate's"
        else:
            np.testing.assert_array_equal(result.outputs["y"], answer(number))
    assert len(ran) <= 1 + RUNS_PER_HALVING * (size - 1).bit_length()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 15)))
def test_any_number_of_failing_rows_is_isolated_in_a_batch_of_16(poison):
    results, _ = asyncio.run(_poison(range(16), poison))
    assert {n for n, result in enumerate(results) if isinstance(result, PoisonError)} == poison


def test_a_session_that_always_fails_costs_a_bounded_number_of_executions():
    results, ran = asyncio.run(_poison(range(64), set(range(64))))
    assert all(isinstance(result, PoisonError) for result in results)
    assert len(ran) <= 1 + RUNS_PER_HALVING * 6


async def _a_deadline_that_ends_during_the_search():
    async with gated(poison={1}) as (batcher, session, clock):
        first = calls(batcher, [0])
        await until(lambda: session.inside)
        poison = calls(batcher, [1])
        tight = calls(batcher, [2], deadline=3.0)
        await admitted()
        session.release(1000)
        await first[0]
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(tight[0], PATIENCE_S)
        with pytest.raises(PoisonError):
            await poison[0]
        assert session.ran == [[0], [2, 1], [1]], "2.75 s have passed when the batch fails: too late for another 1.25 s"
        assert clock.now == 4.0


def test_a_deadline_that_ends_during_the_search_is_not_run_again():
    asyncio.run(_a_deadline_that_ends_during_the_search())


async def _an_error_fails_only_its_own_batch(error, told):
    class Session(FakeSession):
        def enter(self, rows):
            super().enter(rows)
            if len(self.ran) == 1:
                raise error

    async with Batcher([Session()], rows_signature(8), CURVE, OPTIONS) as batcher:
        with pytest.raises(type(told), match=str(told)):
            await batcher.submit(request(1), 1)
        got = await batcher.submit(request(2), 1)
        np.testing.assert_array_equal(got.outputs["y"], answer(2))
        assert batcher.counters.calls["failed"] == 1
        assert batcher.counters.failures_in_a_row == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PoisonError("a bad row"), PoisonError("a bad row")),
        (ValueError("a bad row"), ExecutionError("the model raised ValueError: a bad row")),
        (SystemExit("a wish to end"), ExecutionError("the model raised SystemExit: a wish to end")),
        (StopIteration("no more"), ExecutionError("the model raised StopIteration: no more")),
        (asyncio.CancelledError(), ExecutionError("the model raised CancelledError")),
    ],
)
def test_an_error_fails_only_its_own_batch_whatever_is_raised(error, told):
    asyncio.run(_an_error_fails_only_its_own_batch(error, told))


class _Forgetful(GatedSession):
    """Answers only the first row of a batch."""

    def run(self, inputs, outputs=None):
        return {"y": super().run(inputs, outputs)["y"][:1]}


async def _an_output_without_its_rows():
    session = _Forgetful(FakeClock(), 0.0, 0.0)
    async with Batcher([session], rows_signature(8), Curve([]), OPTIONS) as batcher:
        tasks = calls(batcher, range(9))
        await until(lambda: session.inside)
        session.release(1000)
        answers = await asyncio.gather(*tasks)
    assert max(map(len, session.ran)) == 8
    for number, got in enumerate(answers):
        np.testing.assert_array_equal(got.outputs["y"], answer(number))


def test_a_model_that_loses_rows_in_a_batch_never_gives_anyone_another_s_answer():
    asyncio.run(_an_output_without_its_rows())


async def _drain_finishes_what_was_accepted():
    async with gated() as (batcher, session, _):
        tasks = calls(batcher, range(4))
        await until(lambda: session.inside)
        draining = asyncio.create_task(batcher.drain())
        await admitted()
        with pytest.raises(Closed):
            await batcher.submit(request(9), 1)
        assert not draining.done()
        session.release(2)
        await draining
        assert all(task.done() for task in tasks) or len(await asyncio.gather(*tasks)) == 4
        assert (batcher.running, batcher.queued_rows) == (0, 0)


def test_drain_refuses_what_comes_and_finishes_what_was_accepted():
    asyncio.run(_drain_finishes_what_was_accepted())


async def _close_refuses_what_waits():
    async with gated() as (batcher, session, _):
        tasks = calls(batcher, range(3))
        await until(lambda: session.inside)
        closing = asyncio.create_task(batcher.close())
        await admitted()
        session.release()
        await closing
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Answer, Closed, Closed]
        assert session.ran == [[0]]
        await batcher.drain()


def test_close_refuses_what_waits_and_lets_the_running_end():
    asyncio.run(_close_refuses_what_waits())


async def _closing_a_hung_model():
    before = set(threading.enumerate())
    session = GatedSession(FakeClock(), 0.0, 0.0)
    batcher = await Batcher([session], rows_signature(8), CURVE, OPTIONS).__aenter__()
    (worker,) = set(threading.enumerate()) - before
    running = calls(batcher, [0])
    await until(lambda: session.inside)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(batcher.close(), 0.01)
    session.release()
    await until(lambda: not worker.is_alive())
    await asyncio.gather(*running)


def test_closing_a_hung_model_can_be_bounded_and_its_worker_ends_when_the_model_does():
    asyncio.run(_closing_a_hung_model())


async def _cancelled_as_the_error_comes():
    loop = asyncio.get_running_loop()
    async with gated(poison={0}) as (batcher, session, _):
        (task,) = calls(batcher, [0])
        await until(lambda: session.inside)

        def cancel_once_settled():
            # In every turn of the loop, hence between the one that settles the caller's future and the one that wakes the caller.
            if batcher.counters.calls["failed"]:
                task.cancel()
            else:
                loop.call_soon(cancel_once_settled)

        cancel_once_settled()
        session.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert batcher.counters.calls["cancelled"] == 0
        await batcher.drain()


def test_a_call_that_is_cancelled_as_its_error_comes_is_counted_once():
    asyncio.run(_cancelled_as_the_error_comes())


async def _an_idle_worker():
    async with Batcher([FakeSession()], rows_signature(8), CURVE, OPTIONS) as batcher:
        inputs = request(0)
        watched = weakref.ref(inputs["x"])
        await batcher.submit(inputs, 1)
        del inputs
        await until(lambda: batcher.running == 0)
        await until(lambda: watched() is None)


def test_an_idle_worker_holds_no_caller_s_arrays():
    asyncio.run(_an_idle_worker())


def test_no_thread_outlives_the_batcher():
    before = set(threading.enumerate())
    asyncio.run(_drain_finishes_what_was_accepted())
    assert set(threading.enumerate()) <= before


async def _abandoned():
    session = GatedSession(FakeClock(), 0.0, 0.0)
    batcher = Batcher([session], rows_signature(8), CURVE, OPTIONS)
    await batcher.__aenter__()
    task = asyncio.create_task(batcher.submit(request(0), 1))
    await until(lambda: session.inside)
    task.cancel()
    return session


def test_a_loop_that_ends_without_closing_leaves_no_worker_behind():
    before = set(threading.enumerate())
    session = asyncio.run(_abandoned())
    session.release()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_nonsense_options_and_no_session_are_refused():
    with pytest.raises(ValueError, match="max_batch is 0; wanted 1 or more"):
        BatcherOptions(0, 10, 1.0)
    with pytest.raises(ValueError, match="no session"):
        Batcher([], rows_signature(8), CURVE, OPTIONS)
