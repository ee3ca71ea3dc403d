"""Make cheaper variants of a model, measure each against budgets.toml, and publish the one that meets every budget.

:func:`optimize.pipeline.export` reads like the whole export, step by step:

    source      read the model, its samples, its metric and its preprocess
    convert     make the FP32 baseline graph; build the candidates that apply, each with its recipe
    tournament  judge the candidates stage by stage, with what `measure`, `validate` and `statistics` find
    registry    publish the winner as a version with its manifest
    report      show what was found

`cli` and `commands` are the command line. `execution` runs each stage in a fresh process and remembers its result, `runtime` opens
models, and `recipes` has one graph transformation per file. docs/architecture.md follows one budget through all of them. Imports
go one way, see `[tool.importlinter]` in pyproject.toml.
"""
