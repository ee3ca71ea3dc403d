import numpy as np
import pytest

from optimize.errors import SourceError
from optimize.statistics import bootstrap, drop
from optimize.statistics.drop import agreement, paired_drop, pairs_needed, score_drop, set_drop


def answers(n, lost, won):
    """Which answers of n are right, of the source and of a candidate that loses and wins so many."""
    source = np.ones(n, bool)
    candidate = source.copy()
    candidate[:lost] = False
    source[lost : lost + won] = False
    return source, candidate


def test_a_good_candidate_passes_with_its_interval_and_its_counts():
    found = paired_drop(*answers(5000, 30, 28), 0.02, 0.95)
    assert (found.verdict, found.observed, found.n, found.needed) == ("PASS", 0.0004, 5000, None)
    assert found.low < 0.0004 < found.high < 0.02
    assert found.evidence == (
        "drop of 0.04 points on 5,000 samples (30 right answers lost, 28 won), from -0.22 to 0.31 points (95 % each way)"
    )


def test_a_bad_candidate_fails():
    found = paired_drop(*answers(1000, 60, 5), 0.02, 0.95)
    assert (found.verdict, found.observed) == ("FAIL", 0.055)
    assert found.low > 0.02


def test_too_few_samples_say_how_many_would_settle_it():
    found = paired_drop(*answers(100, 0, 0), 0.02, 0.95)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", 180)
    assert found.evidence.endswith("about 180 samples in all would settle it")
    assert paired_drop(*answers(180, 0, 0), 0.02, 0.95).verdict == "PASS"


def test_confidence_counts():
    at = [paired_drop(*answers(450, 2, 1), 0.02, confidence).verdict for confidence in (0.9, 0.999)]
    assert at == ["PASS", "INCONCLUSIVE"]


def test_no_drop_at_all_cannot_be_shown_of_equal_answers():
    found = paired_drop(*answers(1000, 0, 0), 0.0, 0.95)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", None)
    assert paired_drop(*answers(1000, 0, 20), 0.0, 0.95).verdict == "PASS"


def test_the_samples_to_plan_for():
    """At 2 % of answers changed and one point of drop."""
    assert pairs_needed(0.02, 0.01, 0.95) == 1237
    assert pairs_needed(1.0, 1.0, 0.95, 0.8) == 7
    assert pairs_needed(0.02, 0.01, 0.95, 0.9) > 1237


def test_scores_are_judged_by_their_mean_drop():
    rng = np.random.default_rng(0)
    source = -rng.exponential(1.0, 2000)
    slight = source - rng.normal(0.01, 0.05, 2000)
    found = score_drop(source, slight, 0.02, 0.95, 0)
    assert found.verdict == "PASS"
    assert found.observed == pytest.approx(np.mean(source - slight))
    assert found.low < found.observed < found.high < 0.02
    assert score_drop(source, source - rng.normal(0.05, 0.05, 2000), 0.02, 0.95, 0).verdict == "FAIL"


def test_an_open_score_says_how_many_samples_would_settle_it():
    rng = np.random.default_rng(1)
    drops = rng.normal(0.0, 1.0, 400)
    found = score_drop(np.zeros(400), -drops, drops.mean() + 0.05, 0.95, 0)
    assert found.verdict == "INCONCLUSIVE"
    assert found.needed == pytest.approx(6.18 * drops.var() / 0.05**2, rel=0.01)


def test_the_same_seed_gives_the_same_finding():
    rng = np.random.default_rng(2)
    source, candidate = rng.normal(size=300), rng.normal(size=300)
    assert score_drop(source, candidate, 0.1, 0.95, 5) == score_drop(source, candidate, 0.1, 0.95, 5)
    assert score_drop(source, candidate, 0.1, 0.95, 5) != score_drop(source, candidate, 0.1, 0.95, 6)


def test_a_candidate_that_gives_no_numbers_fails():
    candidate = np.zeros(100)
    candidate[[3, 4]] = np.nan, -np.inf
    found = score_drop(np.zeros(100), candidate, 0.1, 0.95, 0)
    assert (found.verdict, found.evidence) == ("FAIL", "the metric is not a number on 2 of 100 samples")
    assert set_drop(lambda _: (1.0, float("nan")), 100, 0.1, 0.95, 0).verdict == "FAIL"


def test_a_source_that_gives_no_numbers_is_the_users_to_mend():
    with pytest.raises(SourceError, match="source model's metric is not a number on 1 of 2 samples"):
        score_drop(np.array([np.nan, 1.0]), np.zeros(2), 0.1, 0.95, 0)
    with pytest.raises(SourceError, match="on 10 of 10 samples"):
        set_drop(lambda _: (float("nan"), 1.0), 10, 0.1, 0.95, 0)


def test_a_metric_of_a_set_is_judged_as_its_mean_would_be():
    rng = np.random.default_rng(3)
    source, candidate = rng.normal(size=500), rng.normal(size=500)

    def means(chosen):
        return float(source[chosen].mean()), float(candidate[chosen].mean())

    whole = set_drop(means, 500, 0.3, 0.95, 0)
    single = score_drop(source, candidate, 0.3, 0.95, 0)
    assert whole.verdict == single.verdict == "PASS"
    assert (whole.observed, whole.low, whole.high) == pytest.approx(
        (single.observed, single.low, single.high), abs=0.01
    )


def test_both_models_are_resampled_with_the_same_indices():
    """What is the same in both must not widen the interval."""
    scores = np.random.default_rng(4).normal(size=500)
    found = set_drop(lambda chosen: (scores[chosen].mean() + 0.01, scores[chosen].mean()), 500, 0.02, 0.95, 0, 200)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))


def test_resamples_without_a_metric_are_left_out_within_reason():
    def seldom(share):
        def metric(chosen):
            broken = len(chosen) == len(set(chosen.tolist())) if share == 0 else rng.random() < share
            return 1.0, float("nan") if broken and calls["n"] else 1.0 - 0.001 * rng.random()

        return metric

    rng, calls = np.random.default_rng(5), {"n": 0}

    def metric(share):
        inner = seldom(share)

        def count(chosen):
            found = inner(chosen)
            calls["n"] += 1
            return found

        return count

    assert set_drop(metric(0.02), 100, 0.1, 0.95, 0, 400).verdict == "PASS"
    calls["n"] = 0
    found = set_drop(metric(0.2), 100, 0.1, 0.95, 0, 400)
    assert found.verdict == "INCONCLUSIVE"
    assert "give more samples of each label" in found.evidence


def test_agreement_well_above_its_limit_passes():
    equal = np.ones(600, bool)
    equal[:17] = False
    found = agreement(equal, 0.95, 0.95)
    assert (found.verdict, found.n) == ("PASS", 600)
    assert found.low > 0.95
    assert found.evidence.startswith("583 of 600 answers agree (97.17%), from 95.7")


def test_agreement_below_its_limit_fails():
    equal = np.ones(600, bool)
    equal[:60] = False
    assert agreement(equal, 0.95, 0.95).verdict == "FAIL"


@pytest.mark.parametrize(("differing", "limit", "about"), [(14, 0.97, 44_500), (14, 0.98, 2_400)])
def test_agreement_near_its_limit_says_how_many_samples_would_settle_it(differing, limit, about):
    equal = np.ones(500, bool)
    equal[:differing] = False
    found = agreement(equal, limit, 0.95)
    assert found.verdict == "INCONCLUSIVE"
    assert found.needed == pytest.approx(about, rel=0.02)


@pytest.mark.parametrize("limit", [0.972, 1.0])
def test_no_number_of_samples_settles_an_agreement_at_its_limit(limit):
    equal = np.ones(500, bool)
    equal[: round(500 * (1 - limit))] = False
    found = agreement(equal, limit, 0.95)
    assert (found.verdict, found.needed) == ("INCONCLUSIVE", None)


def test_one_differing_answer_fails_full_agreement():
    equal = np.ones(500, bool)
    equal[0] = False
    assert agreement(equal, 1.0, 0.95).verdict == "FAIL"


def test_few_samples_prove_nothing_by_resampling():
    """Two samples without a difference have no resample with one either."""
    for n, verdict, needed in ((2, "INCONCLUSIVE", 100), (99, "INCONCLUSIVE", 100), (100, "PASS", None)):
        scores = np.linspace(0.0, 1.0, n)
        found = score_drop(scores, scores, 0.01, 0.95, 0), set_drop(lambda _: (1.0, 1.0), n, 0.01, 0.95, 0, 100)
        assert [(one.verdict, one.needed) for one in found] == [(verdict, needed)] * 2
        assert score_drop(scores, scores - 1.0, 0.01, 0.95, 0).verdict == ("FAIL" if n == 100 else "INCONCLUSIVE")


@pytest.mark.parametrize(("source", "candidate"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_answers_that_are_not_pairs_are_refused(source, candidate):
    with pytest.raises(ValueError, match="two equally long lists"):
        paired_drop(np.array(source, bool), np.array(candidate, bool), 0.1, 0.95)
    with pytest.raises(ValueError, match="at least one pair"):
        agreement(np.array([], bool), 0.9, 0.95)


def test_draws():
    assert (bootstrap.DRAWS, bootstrap.FEWER_DRAWS, bootstrap.SLOW_EVALUATION_S) == (10_000, 1_000, 0.01)
    assert drop.MAX_UNDEFINED_SHARE == 0.05
