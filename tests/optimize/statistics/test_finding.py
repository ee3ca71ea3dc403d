import math

import msgspec
import pytest

from optimize.manifest import Verdict
from optimize.statistics.finding import Finding, finite, judge, settling


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (0.0, 0.9, "lower", "PASS"),
        (1.1, 2.0, "lower", "FAIL"),
        (0.9, 1.1, "lower", "INCONCLUSIVE"),
        (0.9, 1.0, "lower", "INCONCLUSIVE"),
        (1.0, 1.1, "lower", "INCONCLUSIVE"),
        (1.1, 2.0, "higher", "PASS"),
        (0.0, 0.9, "higher", "FAIL"),
        (0.9, 1.1, "higher", "INCONCLUSIVE"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, better, verdict):
    assert judge(low, high, 1.0, better) == verdict


def test_a_finding_becomes_the_manifests_verdict():
    finding = Finding("INCONCLUSIVE", 0.01, 0.0, 0.03, 450, "because", 900)
    verdict = finding.against("accuracy.max_drop", 0.02)
    assert verdict == Verdict("accuracy.max_drop", 0.02, 0.01, 0.0, 0.03, 450, "INCONCLUSIVE", "because", 900)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


def test_infinity_has_no_number():
    assert [finite(value) for value in (1.5, math.inf, -math.inf, math.nan)] == [1.5, None, None, None]


def test_only_an_inconclusive_finding_says_what_would_settle_it():
    assert settling("PASS", None, "calls") == ""
    assert "1,228 calls in all" in settling("INCONCLUSIVE", 1228, "calls")
    assert settling("INCONCLUSIVE", 10**12, "calls") == "; more than 10,000,000 calls in all would settle it"
    assert "too near the limit" in settling("INCONCLUSIVE", None, "calls")
