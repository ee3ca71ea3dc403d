"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BUDGETS = Path("budgets.toml")
DEFAULT_REGISTRY = "artifacts"

BudgetFile = Annotated[Path, typer.Option("--budget", help="The budgets file.")]
ExplainOption = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="CANDIDATE",
        help="Print all evidence of a candidate, such as fp32@onnxruntime-cpu or fp32.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ModelArgument = Annotated[str, typer.Argument(help="A published model.")]
RegistryOption = Annotated[str, typer.Option(help="Where versions are published: a folder or s3://bucket/prefix.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Print every step, and all evidence of every candidate.")
]
