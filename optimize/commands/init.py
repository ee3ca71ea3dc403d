"""Init: a first budgets file for a model."""

from pathlib import Path
from typing import Annotated

import typer

from optimize.commands.options import DEFAULT_BUDGETS
from optimize.errors import Exit, UserError


def init(
    model: Annotated[str, typer.Argument(help="A .onnx file, or file.py:attr that names an nn.Module or its factory.")],
    output: Annotated[Path, typer.Option(help="File to write; never overwritten.")] = DEFAULT_BUDGETS,
) -> Exit:
    """Write a commented budgets.toml for a model."""
    from optimize.init_file import budgets_toml  # noqa: PLC0415 - onnx or torch, which `--help` does without

    text = budgets_toml(model, Path.cwd(), output)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{output}: is there already; name another file with --output, or delete it") from None
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {output}; read it through, set your limits, then run: optimize export --budget {output}")
    return Exit.OK
