"""Export a model in cheaper variants, measure each against budgets.toml, and publish the one that proves it keeps them.

The story stands in :func:`optimize.pipeline.export`. Imports inside the package go one way (see `[tool.importlinter]`).
"""
