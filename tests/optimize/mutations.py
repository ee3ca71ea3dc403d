"""Small wrong changes to the core of an export, for a slow test to show that the unit tests see each of them.

A mutation is text: a refactor that moves or rewords a line moves its row. The old text must stand in the file exactly once.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """What becomes wrong, in which file of `optimize`, and by which change of its text."""

    what: str
    file: str
    old: str
    new: str


CHOICE = [
    Mutation("any gain beats the simpler one", "tournament/choice.py", "MIN_GAIN = 0.03", "MIN_GAIN = 0.0"),
    Mutation(
        "the larger one improves",
        "tournament/choice.py",
        "(1 + MIN_GAIN) < theirs.value",
        "(1 + MIN_GAIN) > theirs.value",
    ),
    Mutation(
        "the least simple comes first",
        "tournament/choice.py",
        '_SIMPLEST_FIRST = ("fp32", "fp16", "int8-dynamic", "int8-static")',
        '_SIMPLEST_FIRST = ("int8-static", "int8-dynamic", "fp16", "fp32")',
    ),
    Mutation(
        "what was not measured is met",
        "tournament/choice.py",
        'if limit.key not in by_key or by_key[limit.key].verdict == "INCONCLUSIVE"',
        'if limit.key in by_key and by_key[limit.key].verdict == "INCONCLUSIVE"',
    ),
    Mutation(
        "a quick run that qualifies someone has none within budget",
        "tournament/choice.py",
        'statuses & {"inconclusive", "qualified", "built"}',
        'statuses & {"inconclusive", "built"}',
    ),
    Mutation(
        "a runner-up does not say that it qualified so far",
        "tournament/choice.py",
        'judged(budgets, candidate, ("throughput",)).status != "qualified"',
        'judged(budgets, candidate).status != "qualified"',
    ),
    Mutation(
        "a tie goes to the challenger",
        "tournament/winner.py",
        'compared.outcome == "faster"',
        'compared.outcome != "slower"',
    ),
    Mutation(
        "the loser goes on",
        "tournament/winner.py",
        "best = challenger if beaten else best",
        "best = best if beaten else challenger",
    ),
    Mutation(
        "throughput is compared at the batch of latency",
        "tournament/winner.py",
        'batch = budgets.latency.batch if budgets.objective == "latency" else None',
        "batch = budgets.latency.batch",
    ),
    Mutation("two that clash are no tie", "tournament/winner.py", "        return False, f", "        return True, f"),
    Mutation(
        "one that breaks goes on",
        "tournament/winner.py",
        "moved = msgspec.structs.replace(candidate, failed=str(error))",
        "moved = candidate",
    ),
    Mutation(
        "one that lost goes on", "tournament/winner.py", "        if candidate.out:\n", "        if candidate.failed:\n"
    ),
    Mutation(
        "an undecided load test wins",
        "tournament/winner.py",
        'if standing(tournament.runner, tested).status == "qualified":',
        "if not tested.out:",
    ),
    Mutation(
        "noise is not asked for a p50",
        "tournament/winner.py",
        "if budget.p50_ms is None and budget.p99_ms is None:",
        "if budget.p99_ms is None:",
    ),
]

KEYS = [
    Mutation(
        "a measurement holds for every machine",
        "execution/stage_runner.py",
        "key = key_of(stage, depends, self.tools, self.machine)\n\n        def attempt",
        "key = key_of(stage, depends, self.tools)\n\n        def attempt",
    ),
    Mutation(
        "answers hold for every machine",
        "execution/stage_runner.py",
        "key = key_of(stage, depends, self.tools, self.machine)\n\n        def fill",
        "key = key_of(stage, depends, self.tools)\n\n        def fill",
    ),
    Mutation(
        "a build holds for all tools",
        "execution/stage_runner.py",
        "key = key_of(stage, depends, self.tools)\n        return",
        "key = key_of(stage, depends)\n        return",
    ),
    Mutation(
        "the death of a process is remembered",
        "execution/stage_runner.py",
        "            except ProcessError:\n                raise\n",
        "",
    ),
    Mutation(
        "without reuse old entries are read",
        "execution/cache.py",
        "held = (self._reuse or entry in self._fresh) and _used(target)",
        "held = _used(target)",
    ),
    Mutation(
        "options of a session change nothing",
        "tournament/trials.py",
        "(self.digest, self.model_ref.options)",
        "(self.digest,)",
    ),
    Mutation(
        "the metric changes nothing", "tournament/trials.py", "            tournament.source.metric_digest,\n", ""
    ),
    Mutation(
        "the rows of a screened call change nothing",
        "tournament/trials.py",
        "            tournament.signature,\n            tournament.runner.budgets.latency.batch,\n        )",
        "            tournament.signature,\n        )",
    ),
    Mutation(
        "the p99 of a load test changes nothing",
        "tournament/finals.py",
        "        qps,\n        limit_ms,\n",
        "        qps,\n",
    ),
    Mutation(
        "the batch of a time_interleaved changes nothing",
        "tournament/finals.py",
        "tournament.signature, batch)\n    arguments",
        "tournament.signature)\n    arguments",
    ),
    Mutation(
        "the code of preprocess changes no latency",
        "tournament/finals.py",
        "        tournament.source.source_digest,\n",
        "",
    ),
    Mutation(
        "dims change no conversion",
        "pipeline.py",
        "budgets.inputs, budgets.outputs, budgets.dims)",
        "budgets.inputs, budgets.outputs)",
    ),
    Mutation(
        "other code of preprocess is not taken",
        "pipeline.py",
        "parts = (budgets.preprocess, source.source_digest, source.data_digest)",
        "parts = (budgets.preprocess, source.data_digest)",
    ),
]

STAGES = [
    Mutation("the lowest memory counts", "tournament/trials.py", "top = max(peaks", "top = min(peaks"),
    Mutation("a hopeless candidate is timed", "tournament/trials.py", "HOPELESS = 3.0", "HOPELESS = 30.0"),
    Mutation("each look begins anew", "tournament/trials.py", "calls - before)", "calls)"),
    Mutation(
        "the split that chose confirms",
        "tournament/finals.py",
        'candidate, baseline, "confirmation")',
        'candidate, baseline, "selection")',
    ),
    Mutation(
        "the source keeps its one thread",
        "tournament/finals.py",
        "_speed(tournament, candidate, baseline.with_options(candidate.model_ref.options))",
        "_speed(tournament, candidate, baseline)",
    ),
    Mutation(
        "a winner may break at its golden answers",
        "tournament/finals.py",
        "    golden_answers(tournament, candidate)\n    return loaded",
        "    return loaded",
    ),
    Mutation(
        "the current version is timed against itself",
        "tournament/finals.py",
        "current.digest == candidate.digest:",
        "False:",
    ),
    Mutation(
        "a lost request took no time", "tournament/finals.py", "np.inf if latency is None", "0.0 if latency is None"
    ),
]

PUBLISHING = [
    Mutation("other budgets are the same answer", "pipeline.py", '            "budgets",\n', ""),
    Mutation("a damaged model file is current", "pipeline.py", "        registry.model_file(manifest)\n", ""),
    Mutation("a version is judged with other threads", "pipeline.py", "settled=True", "settled=False"),
    Mutation(
        "a version that is not there is exported",
        "pipeline.py",
        "if version is None and registry.current(runner.name) is None:",
        "if registry.current(runner.name) is None:",
    ),
]

MUTATIONS = {
    "test_choice": CHOICE,
    "test_reuse": KEYS,
    "test_what_is_measured": STAGES,
    "test_publishing_again": PUBLISHING,
}
"""By the file of unit tests that is the likeliest to fail, so that it runs first."""
