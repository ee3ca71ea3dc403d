"""What a rule found: a verdict, its interval, and a sentence for the user."""

import math
from typing import Literal

from msgspec import Struct

from optimize.manifest import Outcome, Verdict, about


class Finding(Struct, frozen=True):
    """One quantity judged against one limit.

    `low` and `high` are one-sided bounds in the unit of `observed`; None if there is no finite value. `needed` is the number of
    samples in all that would settle an INCONCLUSIVE finding, if it is known.
    """

    verdict: Outcome
    observed: float | None
    low: float | None
    high: float | None
    n: int
    evidence: str
    needed: int | None = None

    def against(self, budget: str, limit: float) -> Verdict:
        """The manifest's record of this finding: `budget` is the key in budgets.toml, `limit` its value there."""
        return Verdict(
            budget, limit, self.observed, self.low, self.high, self.n, self.verdict, self.evidence, self.needed
        )


def judge(low: float, high: float, limit: float, better: Literal["lower", "higher"]) -> Outcome:
    """PASS when the whole interval is strictly on the good side of the limit, FAIL when on the bad side, else INCONCLUSIVE."""
    below, above = high < limit, low > limit
    if below or above:
        return "PASS" if below == (better == "lower") else "FAIL"
    return "INCONCLUSIVE"


def finite(value: float) -> float | None:
    """The value, or None if JSON has no number for it."""
    return value if math.isfinite(value) else None


def settling(verdict: Outcome, needed: int | None, noun: str) -> str:
    """The last clause of an INCONCLUSIVE sentence: what would settle it; empty for another verdict."""
    if verdict != "INCONCLUSIVE":
        return ""
    if needed is None:
        return f"; too near the limit to say how many {noun} would settle it"
    return f"; {about(needed)} {noun} in all would settle it"
