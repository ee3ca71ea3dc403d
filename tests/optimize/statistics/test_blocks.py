import numpy as np
import pytest

from optimize.manifest import about
from optimize.statistics.blocks import BLOCKS, block_rule, split_blocks


def blocks(*p99s_ms, calls=2000):
    """Blocks whose p99 is the given one: a hundredth and one call of each are slower."""
    found = []
    for seed, p99_ms in enumerate(p99s_ms):
        block = np.linspace(0.1, 0.9, calls) * p99_ms
        block[-calls // 100 :] = 2 * p99_ms
        block[-calls // 100 - 1] = p99_ms
        found.append(np.random.default_rng(seed).permutation(block))
    return found


def test_all_blocks_within_pass():
    found = block_rule(blocks(8, 8, 8, 8, 8, 8, 8, 10.0), 10.0)
    assert (found.verdict, found.n, found.low, found.high) == ("PASS", 16_000, 8, 10)
    assert found.evidence == "p99 within 10 ms in 8 of 8 blocks of 2,000 calls (best 8 ms, worst 10 ms)"


def test_no_block_within_fails():
    assert block_rule(blocks(*[10.1] * 8), 10.0).verdict == "FAIL"


@pytest.mark.parametrize("within", range(1, 8))
def test_anything_between_is_open(within):
    found = block_rule(blocks(*[9] * within, *[11.5] * (8 - within)), 10.0)
    assert found.verdict == "INCONCLUSIVE"
    assert f"in {within} of 8 blocks" in found.evidence
    assert found.needed > 16_000
    assert f"{about(found.needed)} calls in all would settle it" in found.evidence


def test_advice_at_the_limit_itself_is_no_absurd_number():
    found = block_rule(blocks(9.5, 10.5, 9.5, 10.5, 9.5, 10.5, 9.5, 10.5 + 1e-6), 10.0)
    assert found.needed > 10**9
    assert found.evidence.endswith("; more than 10,000,000 calls in all would settle it")


def test_failed_calls_are_violations():
    failing = blocks(*[8] * 8)
    failing[3] = failing[3].copy()
    failing[3][:21] = np.inf
    found = block_rule(failing, 10.0)
    assert (found.verdict, found.high, found.needed) == ("INCONCLUSIVE", None, None)
    assert "worst a failed call" in found.evidence
    assert block_rule([np.full(2000, np.inf)] * 8, 10.0).verdict == "FAIL"


def test_a_hundredth_of_failed_calls_is_allowed_as_slow_ones_are():
    passing = [np.full(2000, 1.0) for _ in range(8)]
    for block in passing:
        block[:20] = np.inf
    assert block_rule(passing, 10.0).verdict == "PASS"


@pytest.mark.parametrize(
    ("given", "needed"), [([], 16_000), (blocks(*[1] * 7), 16_000), (blocks(*[1] * 8, calls=1999), 16_000)]
)
def test_too_few_calls_prove_nothing(given, needed):
    found = block_rule(given, 10.0)
    assert (found.verdict, found.observed, found.needed) == ("INCONCLUSIVE", None, needed)
    assert "wanted 8 of at least 2,000 calls each: 16,000 calls in all would settle it" in found.evidence


def test_the_fewest_calls_of_a_block_can_be_set():
    assert block_rule(blocks(*[1] * 8, calls=500), 10.0, min_calls=500).verdict == "PASS"


def test_more_blocks_than_eight_must_all_agree():
    assert block_rule(blocks(*[9] * 9, 11), 10.0).verdict == "INCONCLUSIVE"


def test_other_percentiles():
    found = block_rule(blocks(*[9] * 8), 4.6, percentile=0.5)
    assert found.verdict == "PASS"
    assert found.evidence.startswith("p50 within")


def test_splitting_keeps_every_call_in_order():
    parts = split_blocks(np.arange(16_005))
    assert len(parts) == BLOCKS
    assert {len(part) for part in parts} == {2000, 2001}
    assert np.array_equal(np.concatenate(parts), np.arange(16_005))


def test_a_pass_near_saturation_carries_a_warning():
    rng = np.random.default_rng(0)
    calm = [rng.random(2000) for _ in range(8)]
    waves = [rng.random(2000) + np.sin(np.arange(2000) / 100) for _ in range(8)]
    assert "correlate" not in block_rule(calm, 3.0).evidence
    assert "calls 50 apart still correlate" in block_rule(waves, 3.0).evidence
