import numpy as np
import pytest

from optimize.statistics.comparison import faster, machine_noise, speedup


def blocks(level_ms, pairs=20, seed=0, spread=0.1):
    rng = np.random.default_rng(seed)
    return [level_ms * np.exp(spread * rng.standard_normal(50)) for _ in range(pairs)]


@pytest.mark.parametrize(
    ("a_ms", "b_ms", "outcome"),
    [(1.0, 1.2, "faster"), (1.2, 1.0, "slower"), (1.0, 1.0, "tie"), (1.0, 1.02, "tie"), (1.02, 1.0, "tie")],
)
def test_a_difference_must_clear_three_percent(a_ms, b_ms, outcome):
    found = faster(blocks(a_ms), blocks(b_ms, seed=1), seed=0)
    assert found.outcome == outcome
    assert found.low < found.ratio < found.high
    assert found.ratio == pytest.approx(b_ms / a_ms, rel=0.02)


def test_the_gain_that_counts_can_be_set():
    a, b = blocks(1.0), blocks(1.1, seed=1)
    assert faster(a, b, seed=0).outcome == "faster"
    assert faster(a, b, 0.2, seed=0).outcome == "tie"


def test_swapping_the_two_mirrors_the_comparison():
    a, b = blocks(1.0), blocks(1.1, seed=1)
    there, back = faster(a, b, seed=0), faster(b, a, seed=0)
    assert (there.outcome, back.outcome) == ("faster", "slower")
    assert there.ratio == pytest.approx(1 / back.ratio)


def test_too_few_pairs_are_a_tie():
    found = faster(blocks(1.0, 19), blocks(2.0, 19, seed=1), seed=0)
    assert (found.outcome, found.pairs) == ("tie", 19)


def test_a_drift_over_the_run_cancels_in_pairs():
    drift = np.linspace(1.0, 2.0, 20)
    a = [block * slow for block, slow in zip(blocks(1.0), drift, strict=True)]
    b = [block * slow for block, slow in zip(blocks(1.1, seed=1), drift, strict=True)]
    assert faster(a, b, seed=0).outcome == "faster"


def test_a_burst_over_a_few_pairs_does_not_decide():
    a, b = blocks(1.0), blocks(1.1, seed=1)
    for pair in (2, 11, 12):
        a[pair] = a[pair] * 5
    found = faster(a, b, seed=0)
    assert found.outcome == "faster"
    assert found.ratio == pytest.approx(1.1, rel=0.02)


def test_unequal_numbers_of_blocks_are_refused():
    with pytest.raises(ValueError, match="equally many blocks"):
        faster(blocks(1.0, 20), blocks(1.0, 19), seed=0)
    with pytest.raises(ValueError, match="equally many blocks"):
        machine_noise([], [], seed=0)


def rates(level, pairs=20, seed=0):
    return level * np.exp(0.02 * np.random.default_rng(seed).standard_normal(pairs))


@pytest.mark.parametrize(("level", "verdict"), [(2.0, "PASS"), (1.7, "FAIL")])
def test_speedup_against_its_limit(level, verdict):
    found = speedup(rates(level), rates(1.0, seed=1), 1.8, kind="min_speedup", seed=0)
    assert found.verdict == verdict
    assert found.observed == pytest.approx(level, rel=0.02)
    assert "times the reference's rows per second" in found.evidence


@pytest.mark.parametrize(("level", "verdict"), [(1.0, "PASS"), (0.8, "FAIL")])
def test_slowdown_against_its_limit(level, verdict):
    found = speedup(rates(level), rates(1.0, seed=1), 1.05, kind="max_slowdown", seed=0)
    assert found.verdict == verdict
    assert found.observed == pytest.approx(1 / level, rel=0.02)


def test_a_speedup_at_its_limit_says_how_many_pairs_would_settle_it():
    found = speedup(rates(1.81), rates(1.0, seed=1), 1.8, kind="min_speedup", seed=0)
    assert found.verdict == "INCONCLUSIVE"
    assert found.needed > 20
    assert f"about {found.needed:,} pairs of blocks in all would settle it" in found.evidence
    short = speedup(rates(3.0, 19), rates(1.0, 19, seed=1), 1.8, kind="min_speedup", seed=0)
    assert (short.verdict, short.needed) == ("INCONCLUSIVE", 20)


def test_noise_is_what_a_run_against_itself_shows():
    assert 0.0 < machine_noise(blocks(1.0), blocks(1.0, seed=1), seed=0) < 0.03
    assert machine_noise(blocks(1.0), blocks(1.1, seed=1), seed=0) > 0.1
    assert machine_noise(blocks(1.1, seed=1), blocks(1.0), seed=0) > 0.1
    still = [np.ones(50)] * 20
    assert machine_noise(still, still, seed=0) == 0.0
