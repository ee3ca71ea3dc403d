import asyncio
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.runtime.batching.batcher import Batcher
from optimize.runtime.batching.calls import Answer
from optimize.runtime.batching.options import BatcherOptions
from optimize.runtime.batching.rejections import DeadlineExceeded, QueueFull
from optimize.runtime.batching.scheduling.curve import Curve
from tests.optimize.runtime.driving import MAX_BATCH, admitted, cost_s, gated, until
from tests.optimize.runtime.fakes import (
    PATIENCE_S,
    FakeSession,
    PoisonError,
    answer,
    request,
    rows_signature,
)


class _History:
    """Drives one batcher through random operations and checks every execution and every answer against what it knows."""

    def __init__(self, batcher, sessions, clock, poison):
        self.batcher, self.sessions, self.clock, self.poison = batcher, sessions, clock, poison
        self.tasks, self.deadlines, self.rows, self.priorities = [], [], [], []
        self.cancelled_at = {}
        for session in sessions:
            session.enter = self._check(session.enter)

    def _check(self, enter):
        def checked(rows):
            numbers = dict.fromkeys(rows)
            assert len(rows) <= MAX_BATCH or len(numbers) == 1
            assert len(rows) == sum(self.rows[n] for n in numbers)
            for number in numbers:
                assert number not in self.cancelled_at, "a cancelled request was run"
                assert self.clock.now + cost_s(self.rows[number]) <= self.deadlines[number], "it could not be met"
            if len(numbers) > 1:
                assert self.clock.now + cost_s(len(rows)) <= min(self.deadlines[n] for n in numbers)
            enter(rows)

        return checked

    async def submit(self, rows, timeout, priority):
        number = len(self.tasks)
        self.rows.append(rows)
        self.deadlines.append(self.clock.now + timeout)
        self.tasks.append(
            asyncio.create_task(
                self.batcher.submit(request(number, rows), rows, deadline=self.deadlines[-1], priority=priority)
            )
        )
        await admitted()
        await self._still()

    async def cancel(self, which):
        running = {row for session in self.sessions if session.inside for row in session.ran[-1]}
        if self.tasks and not self.tasks[which % len(self.tasks)].done():
            number = which % len(self.tasks)
            self.tasks[number].cancel()
            await admitted()
            if number not in running:
                self.cancelled_at[number] = self.clock.now

    async def advance(self, seconds):
        self.clock.now += seconds

    async def finish(self, which):
        session = self.sessions[which % len(self.sessions)]
        if session.inside:
            left = session.left
            session.release()
            await until(lambda: session.left > left)
            await self._still()

    async def _still(self):
        await until(lambda: self.batcher.running == sum(session.inside for session in self.sessions))

    def check(self, results):
        succeeded = [n for session in self.sessions for batch in session.succeeded for n in dict.fromkeys(batch)]
        ran = {n for session in self.sessions for batch in session.ran for n in batch}
        assert len(succeeded) == len(set(succeeded)), "an answered request was run again"
        for number, result in enumerate(results):
            if isinstance(result, Answer):
                np.testing.assert_array_equal(result.outputs["y"], answer(number, self.rows[number]))
                assert number not in self.poison
            elif isinstance(result, PoisonError):
                assert number in self.poison
            elif isinstance(result, DeadlineExceeded):
                assert number not in succeeded
                assert number not in ran or "still running" in str(result)
            else:
                assert isinstance(result, asyncio.CancelledError | QueueFull)
        assert self.batcher.queued_rows == self.batcher.running == 0
        assert sum(self.batcher.counters.calls.values()) == len(results)


_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, MAX_BATCH + 1), st.integers(0, 60), st.integers(-1, 2)),
        st.tuples(st.just("submit"), st.just(1), st.just(500), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("advance"), st.floats(0, 5)),
        st.tuples(st.just("finish"), st.integers(0, 1)),
    ),
    max_size=40,
)


async def _live(operations, workers, poison):
    options = BatcherOptions(MAX_BATCH, max_queue_rows=20, default_timeout_s=1000.0, ageing_s=10.0)
    async with gated(options, workers=workers, poison=poison) as (batcher, sessions, clock):
        history = _History(batcher, sessions if workers > 1 else [sessions], clock, poison)
        for name, *arguments in operations:
            await getattr(history, name)(*arguments)
            assert batcher.queued_rows <= options.max_queue_rows
        # One after the other: two executions that end at once would move the clock under each other's feet.
        while any(session.inside for session in history.sessions):
            for index in range(workers):
                await history.finish(index)
        results = await asyncio.wait_for(asyncio.gather(*history.tasks, return_exceptions=True), PATIENCE_S)
        await batcher.drain()
        history.check(results)


@settings(max_examples=150, deadline=None)
@given(_OPERATIONS, st.integers(1, 2), st.sets(st.integers(0, 20), max_size=3))
def test_no_answer_is_lost_duplicated_or_crossed(operations, workers, poison):
    asyncio.run(_live(operations, workers, poison))


async def _unread(waiting, running_s, timeout):
    options = BatcherOptions(MAX_BATCH, max_queue_rows=20, default_timeout_s=1000.0, ageing_s=10.0)
    async with gated(options) as (batcher, session, clock):
        tasks = [asyncio.create_task(batcher.submit(request(0), 1))]
        await until(lambda: session.inside)
        clock.now += running_s
        for number, (rows, its_timeout) in enumerate(waiting):
            its_deadline = clock.now + its_timeout
            tasks.append(asyncio.create_task(batcher.submit(request(number, rows), rows, deadline=its_deadline)))
        await admitted()
        refusal = batcher.refusal(clock.now + timeout)
        read = asyncio.create_task(batcher.submit(request(99), 1, deadline=clock.now + timeout))
        await admitted()
        refused = read.exception() if read.done() else None
        session.release(100)
        await asyncio.gather(*tasks, read, return_exceptions=True)
    assert (refusal is None) is (refused is None)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(6, 30)), min_size=1, max_size=10),
    st.floats(0, 3),
    st.floats(1, 20),
)
def test_unread_exactly_those_are_refused_who_would_be_when_read(waiting, running_s, timeout):
    asyncio.run(_unread(waiting, running_s, timeout))


async def _thousands():
    chance = random.Random(7)
    poison = set(chance.sample(range(5000), 20))
    sessions = [FakeSession(poison), FakeSession(poison)]
    options = BatcherOptions(32, max_queue_rows=100_000, default_timeout_s=60.0)
    async with Batcher(sessions, rows_signature(32), Curve([]), options) as batcher:
        rows = [chance.choice((1, 1, 1, 2, 5)) for _ in range(5000)]
        tasks = [asyncio.create_task(batcher.submit(request(n, size), size)) for n, size in enumerate(rows)]
        await asyncio.sleep(0)
        for task in chance.sample(tasks, 500):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.drain()
        assert (batcher.queued_rows, batcher.running) == (0, 0)
        assert sum(batcher.counters.calls.values()) == 5000
    for number, result in enumerate(results):
        if isinstance(result, Answer):
            np.testing.assert_array_equal(result.outputs["y"], answer(number, rows[number]))
        elif isinstance(result, PoisonError):
            assert number in poison
        else:
            assert isinstance(result, asyncio.CancelledError)


def test_thousands_at_once_with_cancels_and_poison_each_get_their_own():
    asyncio.run(_thousands())
