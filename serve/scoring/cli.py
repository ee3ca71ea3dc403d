"""`optimize score`: arguments and the last line. No heavy library is imported before the function runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optimize.errors import Exit

if TYPE_CHECKING:
    from serve.scoring.output_folder import Summary


def score(
    model: Annotated[str, typer.Argument(help="Name of a published model.")],
    input_path: Annotated[Path, typer.Option("--input", help="Parquet file: one column per model input.")],
    output: Annotated[
        Path, typer.Option(help="Folder for the part files; new or empty, or with --resume that of an unfinished job.")
    ],
    registry: Annotated[
        str, typer.Option(help="Where versions are published: a folder or s3://bucket/prefix.")
    ] = "artifacts",
    version: Annotated[int | None, typer.Option(min=1, help="A published version; by default the current one.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default as many as the cores allow.")
    ] = None,
    *,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an unfinished job: score only the missing parts.")
    ] = False,
) -> Exit:
    """Score the rows of a Parquet file with a published model."""
    from serve.scoring import job  # noqa: PLC0415 - it imports pyarrow and onnxruntime

    request = job.Request(
        model=model,
        input=input_path,
        output=output,
        registry=registry,
        version=version,
        resume=resume,
        workers=workers,
    )
    try:
        summary = job.run(request)
    except KeyboardInterrupt:
        typer.echo(f"{output}: finished parts are kept; continue with --resume", err=True)
        raise
    typer.echo(f"{output}: {_line(summary)}")
    return Exit.OK


def _line(summary: "Summary") -> str:
    now = "nothing was left to score"
    if summary.rows_scored:
        pace = summary.rows_scored / max(summary.scoring_s, 1e-3)
        now = f"{summary.rows_scored:,} scored now in {summary.seconds:.1f} s, at {pace:,.0f} rows/s once started"
    return (
        f"{summary.rows:,} rows in {summary.parts} part{'s' if summary.parts > 1 else ''}, by {summary.model} version"
        f" {summary.version} ({summary.digest[:12]}); {now}"
    )
