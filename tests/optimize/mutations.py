"""Small wrong changes to the core of an export, for a slow test to show that the unit tests see each of them.

A mutation is text: a refactor that moves or rewords a line updates its row. The old text must occur in the file exactly once.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """What becomes wrong, in which file of `optimize`, and by which change of its text."""

    what: str
    file: str
    old: str
    new: str


CHOICE = [
    Mutation("one that lost goes on", "tournament/rounds.py", "if candidate.out else", "if candidate.failed else"),
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
        "best = challenger if better else best",
        "best = best if better else challenger",
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
        "tournament/rounds.py",
        "moved = msgspec.structs.replace(candidate, failed=str(error))",
        "moved = candidate",
    ),
    Mutation(
        "an undecided load test wins",
        "tournament/winner.py",
        'if result_of(tournament.budgets, tested).status == "qualified":',
        "if not tested.out:",
    ),
]

KEYS = [
    Mutation(
        "arguments that go by name change nothing", "execution/keys.py", "dict(kwargs), *conditions", "*conditions"
    ),
    Mutation("every file is the same", "execution/keys.py", "        return self.digest", '        return ""'),
    Mutation(
        "options of a session change nothing",
        "source/model_ref.py",
        "return self.digest, self.options,",
        "return self.digest,",
    ),
    Mutation(
        "another attribute of the same file is the same source",
        "source/model_ref.py",
        "(budgets.source, budgets.inputs,",
        "(budgets.inputs,",
    ),
]

REUSE = [
    Mutation(
        "a measurement holds for every machine",
        "execution/stage_runner.py",
        "repetition, self.tools, self.machine)",
        "repetition, self.tools)",
    ),
    Mutation(
        "answers hold for every machine",
        "execution/stage_runner.py",
        "kwargs, self.tools, self.machine)",
        "kwargs, self.tools)",
    ),
    Mutation(
        "a build holds for all tools",
        "execution/stage_runner.py",
        "key_of_call(function, args, {}, self.tools)\n",
        "key_of_call(function, args, {})\n",
    ),
    Mutation(
        "without reuse old entries are read",
        "execution/cache.py",
        'return (self._reuse or f"{kind}/{key}" in self._fresh) and _used(target)',
        "return _used(target)",
    ),
    Mutation(
        "the metric changes nothing",
        "tournament/judging/accuracy.py",
        "DigestedPath(runner.base, tournament.source.metric_digest)",
        'DigestedPath(runner.base, "")',
    ),
    Mutation(
        "the code of preprocess changes no latency",
        "tournament/judging/latency.py",
        "tournament.source.preprocess_digest",
        '""',
    ),
    Mutation(
        "other code of preprocess is not taken",
        "tournament/setup.py",
        "DigestedPath(runner.base, source.preprocess_digest)",
        'DigestedPath(runner.base, "")',
    ),
    Mutation("dims change no conversion", "tournament/setup.py", ", dims=budgets.dims)", ")"),
    Mutation(
        "other samples are the same samples",
        "tournament/tournament.py",
        'self.digests.get(name, "")',
        '""',
    ),
    Mutation(
        "weights in a file of their own change nothing",
        "tournament/setup.py",
        "{file.name: digest_of(file) for file in files}",
        "{file.name: digest_of(file) for file in files[:1]}",
    ),
]

STAGES = [
    Mutation(
        "noise is not measured for a p50",
        "tournament/judging/noise.py",
        "if budget.p50_ms is None and budget.p99_ms is None:",
        "if budget.p99_ms is None:",
    ),
    Mutation(
        "all repetitions are one",
        "execution/stage_runner.py",
        "repetition, self.tools, self.machine)",
        "self.tools, self.machine)",
    ),
    Mutation("the lowest memory counts", "tournament/judging/memory.py", "top = max(peaks", "top = min(peaks"),
    Mutation("a hopeless candidate is timed", "tournament/judging/screen.py", "HOPELESS = 3.0", "HOPELESS = 30.0"),
    Mutation("each look starts from the first call", "tournament/judging/latency.py", "calls - before,", "calls,"),
    Mutation(
        "the split that chose confirms",
        "tournament/judging/accuracy.py",
        'judge(tournament, candidate, "confirmation")',
        'judge(tournament, candidate, "selection")',
    ),
    Mutation(
        "the source keeps its one thread",
        "tournament/judging/speed.py",
        "tournament.baseline.with_options(candidate.model_ref.options)",
        "tournament.baseline",
    ),
    Mutation(
        "a winner may break at its golden answers",
        "tournament/stages.py",
        "    golden.record(tournament, candidate)\n",
        "",
    ),
    Mutation(
        "a lost request took no time",
        "tournament/judging/load.py",
        "np.inf if latency is None",
        "0.0 if latency is None",
    ),
]

PUBLISHING = [
    Mutation(
        "the current version is timed against itself",
        "tournament/judging/speed.py",
        "current.digest == candidate.digest:",
        "False:",
    ),
    Mutation("other budgets are the same answer", "tournament/publish.py", '    "budgets",\n', ""),
    Mutation("a damaged model file is current", "tournament/publish.py", "        registry.model_file(manifest)\n", ""),
]

MUTATIONS = {
    "test_choice": CHOICE,
    "test_stage_keys": KEYS,
    "test_reuse": REUSE,
    "execution/test_keys": [
        Mutation(
            "a bare path is known by its name",
            "execution/keys.py",
            "isinstance(value, str | int | float)",
            "isinstance(value, str | int | float | Path)",
        ),
    ],
    "tournament/test_candidate": [
        Mutation(
            "a candidate's weights in a file of their own change nothing",
            "tournament/candidate.py",
            "if len(files) == 1 else",
            "if files else",
        ),
    ],
    "test_stage_failures": [
        Mutation(
            "the death of a process is remembered",
            "execution/stage_runner.py",
            "                except ProcessError:\n                    raise\n",
            "",
        ),
    ],
    "test_what_is_measured": STAGES,
    "test_publishing_again": PUBLISHING,
    "test_validate_command": [
        Mutation("a version is judged with other threads", "tournament/entry.py", "published=True", "published=False"),
        Mutation(
            "a version that is not there is exported",
            "pipeline.py",
            "if version is None and registry.current(runner.name) is None:",
            "if registry.current(runner.name) is None:",
        ),
    ],
    "test_partial_runs": [
        Mutation(
            "a quick run in which one qualifies has none within budget",
            "tournament/choice.py",
            'statuses & {"inconclusive", "qualified", "built"}',
            'statuses & {"inconclusive", "built"}',
        ),
    ],
}
"""By the file of unit tests that is the likeliest to fail, so that it runs first."""
