"""What a report says of one model's result, whatever its format."""

from typing import Literal

from msgspec import Struct

from optimize.budgets import Limit, limits
from optimize.errors import Exit
from optimize.manifest import CandidateResult, Measurement, Result, StageTime, Verdict, counted
from optimize.report.wording import NONE, asked, bounds, plain, quantity, settling, shortfall, title

Tone = Literal["good", "bad", "open", "quiet"]
"""The colour of a statement, which its words repeat."""

NOT_MEASURED = "not measured"
NOT_BEST = "qualified, not best"
SOURCE = "source"
BUILT = "Built only: nothing was judged and nothing published."
QUICK = "Quick run: not a release verdict. Candidates went through the screens alone, and nothing was published."
STALE = "The budgets file has changed since this export; run `optimize export` to judge by the current one."

_NO_WINNER = {
    Exit.OVER_BUDGET: ("No candidate meets every budget", "bad"),
    Exit.INCONCLUSIVE: ("Undecided: more measurements are needed", "open"),
    Exit.USAGE: ("The export could not run: there is something to fix first", "bad"),
    Exit.BROKEN: ("The run itself broke", "bad"),
}
_STATUSES = {
    "over-budget": "over budget",
    "screened-out": "screened out",
    "inconclusive": "undecided",
    "n/a": "does not apply",
    "not-measured": NOT_MEASURED,
}
_TONES: dict[str, Tone] = {
    "winner": "good",
    "qualified": "good",
    "over-budget": "bad",
    "failed": "bad",
    "screened-out": "bad",
    "inconclusive": "open",
    "PASS": "good",
    "FAIL": "bad",
    "INCONCLUSIVE": "open",
    NOT_MEASURED: "open",
}


class Row(Struct, frozen=True):
    """One budget or measurement of one candidate, in words; `outcome` is empty where no budget asks for it."""

    key: str
    title: str
    observed: str
    limit: str
    bounds: str
    n: str
    outcome: str
    evidence: str


class Standing(Struct, frozen=True):
    """One candidate: its status in words, a row per declared budget, rows for other measurements, and why it did not win."""

    candidate: CandidateResult
    status: str
    budgets: tuple[Row, ...]
    others: tuple[Row, ...]
    why: tuple[str, ...]

    @property
    def is_winner(self) -> bool:
        """Whether it won."""
        return self.candidate.status == "winner"

    @property
    def tone(self) -> Tone:
        """How its status is coloured."""
        return "quiet" if self.status == NOT_BEST else tone_of(self.candidate.status)

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows that have evidence: budgets that were judged or are still open, then other measurements."""
        return tuple(row for row in self.budgets if row.outcome) + self.others

    @property
    def measured(self) -> bool:
        """Whether there is anything to show as evidence."""
        return bool(self.candidate.verdicts or self.candidate.measurements or self.candidate.notes)

    @property
    def changed(self) -> bool:
        """Whether any of its answers differ from the source model's."""
        return bool(self.candidate.flipped or self.candidate.lost_by_class)


class Question(Struct, frozen=True):
    """What is still open for a candidate, and what would settle it."""

    candidate: str
    budget: str
    settled_by: str


class Account(Struct, frozen=True):
    """One model's outcome, verdict first."""

    result: Result
    headline: str
    detail: str
    tone: Tone
    warnings: tuple[str, ...]
    limits: tuple[Limit, ...]
    standings: tuple[Standing, ...]
    questions: tuple[Question, ...]

    @property
    def losers(self) -> tuple[Standing, ...]:
        """Every candidate but the winner; the source is none."""
        return tuple(
            standing for standing in self.standings if not standing.is_winner and standing.candidate.precision != SOURCE
        )

    @property
    def losers_title(self) -> str:
        """The heading of their list."""
        if not self.result.release:
            return "Where each candidate stands"
        return "Why the others lost" if self.winner else "Why none won"

    @property
    def winner(self) -> Standing | None:
        """The candidate that won."""
        return next((standing for standing in self.standings if standing.is_winner), None)


def tone_of(word: str) -> Tone:
    """The tone of a status or of a verdict."""
    return _TONES.get(word, "quiet")


def account(result: Result, *, stale: bool = False) -> Account:
    """Put a result into words; `stale` says that budgets.toml has changed since."""
    declared = limits(result.budgets)
    headline, detail, tone = _verdict(result, declared)
    return Account(
        result=result,
        headline=headline,
        detail=detail,
        tone=tone,
        warnings=_warnings(result, stale=stale),
        limits=declared,
        standings=tuple(_standing(candidate, declared, result) for candidate in result.candidates),
        questions=tuple(
            question
            for candidate in result.candidates
            for question in _questions(candidate, declared, unmeasured=result.release and result.winner is None)
        ),
    )


def summary(results: tuple[Result, ...]) -> str:
    """The outcome of the whole run, in a few words."""
    if len(results) == 1:
        outcome = account(results[0])
        return f"{plain(results[0].name)}: {outcome.headline}"
    won = sum(result.winner is not None for result in results)
    return f"{won} of {len(results)} models {'has' if won == 1 else 'have'} a winner"


def reused(stages: tuple[StageTime, ...]) -> str:
    """How much of a run came from the cache."""
    cached = sum(stage.cached for stage in stages)
    spent = sum(stage.seconds for stage in stages)
    return f"{counted(len(stages), 'step')} in {spent:,.1f} s, {cached} from the cache"


def _warnings(result: Result, *, stale: bool) -> tuple[str, ...]:
    partial = () if result.release else (BUILT if built_only(result) else QUICK,)
    return (*partial, STALE) if stale else partial


def built_only(result: Result) -> bool:
    """Whether a partial run stopped after the builds: one that measured has the source among its candidates."""
    return bool(result.candidates) and all(candidate.precision != SOURCE for candidate in result.candidates)


def _verdict(result: Result, declared: tuple[Limit, ...]) -> tuple[str, str, Tone]:
    if result.winner is not None:
        version = f"published as version {result.winner.version}; " if result.winner.version is not None else ""
        met = "the one budget" if len(declared) == 1 else f"all {len(declared)} budgets"
        detail = f"{version}it meets {met} and is best for the objective, {result.budgets.objective}"
        return f"{plain(result.winner.candidate)} wins", detail, "good"
    if not result.release and result.exit not in (Exit.USAGE, Exit.BROKEN):
        if built_only(result):
            built = sum(candidate.status == "built" for candidate in result.candidates)
            return f"{built} of {_contenders(result)} candidates were built", "none of them was measured", "open"
        left = sum(candidate.status in ("qualified", "inconclusive") for candidate in result.candidates)
        return f"{left} of {_contenders(result)} candidates came through the screens", plain(result.reason), "open"
    headline, tone = _NO_WINNER.get(Exit(result.exit), ("No winner", "bad"))
    return headline, plain(result.reason), "open" if tone == "open" else "bad"


def _contenders(result: Result) -> int:
    return sum(candidate.precision != SOURCE for candidate in result.candidates)


def _standing(candidate: CandidateResult, declared: tuple[Limit, ...], result: Result) -> Standing:
    verdicts = {verdict.budget: verdict for verdict in candidate.verdicts}
    status = _status(candidate, declared, result)
    unmeasured = NOT_MEASURED if status == _STATUSES["inconclusive"] else ""
    return Standing(
        candidate=candidate,
        status=status,
        budgets=tuple(_budget(limit, verdicts.get(limit.key), unmeasured) for limit in declared),
        others=tuple(_other(found) for found in candidate.measurements if found.key not in verdicts),
        why=_why(candidate, declared),
    )


def _status(candidate: CandidateResult, declared: tuple[Limit, ...], result: Result) -> str:
    """The status in words: a candidate that lacks only the load test, which the best alone gets, is not undecided."""
    met = {verdict.budget for verdict in candidate.verdicts if verdict.verdict == "PASS"}
    lacking = [limit.key for limit in declared if limit.key not in met]
    judged = {verdict.budget for verdict in candidate.verdicts}
    only_load = all(key.startswith("throughput.") and key not in judged for key in lacking)
    if result.winner is not None and candidate.status in ("qualified", "inconclusive") and declared and only_load:
        return NOT_BEST
    return _STATUSES.get(candidate.status, candidate.status)


def _budget(limit: Limit, verdict: Verdict | None, unmeasured: str) -> Row:
    if verdict is None:
        return Row(limit.key, title(limit.key), NONE, asked(limit), NONE, NONE, unmeasured, "")
    return Row(
        key=limit.key,
        title=title(limit.key),
        observed=NONE if verdict.observed is None else quantity(limit.key, verdict.observed),
        limit=asked(limit),
        bounds=bounds(limit.key, verdict.low, verdict.high),
        n=f"{verdict.n:,}" if verdict.n else NONE,
        outcome=verdict.verdict,
        evidence=plain(verdict.evidence),
    )


def _other(found: Measurement) -> Row:
    return Row(
        key=found.key,
        title=title(found.key),
        observed=quantity(found.key, found.value),
        limit=NONE,
        bounds=bounds(found.key, found.low, found.high),
        n=f"{found.n:,}",
        outcome="",
        evidence=plain(found.method),
    )


def _why(candidate: CandidateResult, declared: tuple[Limit, ...]) -> tuple[str, ...]:
    """Each missed budget with how far it was missed, else the reason of the status."""
    by_key = {limit.key: limit for limit in declared}
    lost = [
        f"{title(verdict.budget)} is {quantity(verdict.budget, verdict.observed)}: "
        + shortfall(by_key[verdict.budget], verdict.observed)
        + f" of {quantity(verdict.budget, verdict.limit)}"
        for verdict in candidate.verdicts
        if verdict.verdict == "FAIL" and verdict.observed is not None and verdict.budget in by_key
    ]
    reason = plain(candidate.reason).removeprefix("does not win: ")
    return tuple(lost) if lost and candidate.status == "over-budget" else (reason, *lost)


def _questions(candidate: CandidateResult, declared: tuple[Limit, ...], *, unmeasured: bool) -> list[Question]:
    """The open budgets of a candidate that may still win.

    What was not measured matters only after a full run without a winner: other runs leave much unmeasured on purpose.
    """
    if candidate.status != "inconclusive":
        return []
    name = plain(candidate.name)
    found = [
        Question(name, title(verdict.budget), settling(verdict))
        for verdict in candidate.verdicts
        if verdict.verdict == "INCONCLUSIVE"
    ]
    judged = {verdict.budget for verdict in candidate.verdicts}
    missing = [title(limit.key) for limit in declared if limit.key not in judged]
    if missing and unmeasured:
        found.append(Question(name, " and ".join(missing), "not measured in this run"))
    return found
