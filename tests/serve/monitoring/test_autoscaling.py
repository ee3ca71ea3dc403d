"""What a replica reports about its load, and how many replicas that asks for."""

import asyncio
from types import SimpleNamespace

import pytest

from serve.monitoring.autoscaling import BUSY_SHARE, DRAIN_S, Backlog
from serve.monitoring.autoscaling_stats import AutoscalingStats
from tests.optimize.runtime.driving import calls, cost_s, gated, until
from tests.optimize.runtime.fakes import FakeClock


@pytest.mark.parametrize(
    ("drains_s", "shares", "wanted"),
    [
        ([0.0], [0.0], 1.0),
        ([0.5], [0.7], 1.0),
        ([1.5], [0.7], 3.0),
        ([0.1, 0.1], [0.7, 0.35], 1.5),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 0.8], 4.0),
    ],
)
def test_queues_and_busy_time_ask_for_replicas(drains_s: list[float], shares: list[float], wanted: float) -> None:
    reported = {DRAIN_S: dict(enumerate(drains_s)), BUSY_SHARE: dict(enumerate(shares))}
    context = SimpleNamespace(target_num_replicas=9, aggregated_metrics=reported)
    assert Backlog(target_drain_s=0.5, max_load=0.7)(context) == (pytest.approx(wanted), {})


@pytest.mark.parametrize("reported", [None, {}, {DRAIN_S: {}, BUSY_SHARE: {}}])
def test_without_a_report_nothing_changes(reported: dict | None) -> None:
    context = SimpleNamespace(target_num_replicas=3, aggregated_metrics=reported)
    assert Backlog(target_drain_s=0.5, max_load=0.7)(context) == (3, {})


def test_a_replica_reports_its_backlog_and_its_busy_share() -> None:
    async def story() -> None:
        clock = FakeClock()
        stats = AutoscalingStats(clock)
        async with gated(workers=2) as (batcher, sessions, batcher_clock):
            versions = [SimpleNamespace(manifest=SimpleNamespace(model="m", version=1), batcher=batcher)]
            tasks = calls(batcher, [1])
            await until(lambda: any(session.inside for session in sessions))
            clock.now += 10.0
            assert stats.report(versions) == {DRAIN_S: cost_s(1) / 2, BUSY_SHARE: 0.0}
            for session in sessions:
                session.release()
            await asyncio.gather(*tasks)
            await until(lambda: not batcher.executing())
            clock.now += 10.0
            batcher_clock.now += 10.0
            assert stats.report(versions) == {DRAIN_S: 0.0, BUSY_SHARE: cost_s(1) / 10.0 / 2}
            clock.now += 10.0
            assert stats.report(versions)[BUSY_SHARE] == 0.0

    asyncio.run(story())
