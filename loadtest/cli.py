"""The command `optimize loadtest`."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from optimize.errors import Exit, UserError

if TYPE_CHECKING:
    from loadtest.run import Settings
    from optimize.budgets import ModelBudgets


def loadtest(  # noqa: PLR0913, PLR0917 - one parameter per option
    target: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT",
            help="Where your service answers gRPC; several replicas with commas between, called in turn.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Model to test, as the budgets file and the service name it.")],
    budget: Annotated[Path, typer.Option(help="The budgets file.")] = Path("budgets.toml"),
    rate: Annotated[float | None, typer.Option(help="Calls a second. Default: throughput.qps.")] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds to judge. Default: as long as 16,000 calls take, the fewest for a verdict."),
    ] = None,
    report_dir: Annotated[
        Path, typer.Option("--report", help="Folder for report.md, report.json and calls.npz.", file_okay=False)
    ] = Path("loadtest-report"),
    seed: Annotated[int, typer.Option(help="Seed of the arrivals and of the inputs.", min=0)] = 0,
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="How calls are spaced.")] = "poisson",
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a call is given up, and counts as failed.")
    ] = 10.0,
    input_path: Annotated[
        Path | None, typer.Option("--input", help="Rows to send, .npz or .parquet. Default: inputs are made up.")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="The service has TLS, with a certificate that everybody knows.")
    ] = False,
    tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the CA that the service's certificate is of.", dir_okay=False)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of a certificate to call with.", dir_okay=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.", dir_okay=False)] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File that holds the token to call with. Default: what PROVESERVE_TOKEN says.", dir_okay=False
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Send a token to another machine without TLS.")] = False,
) -> Exit:
    """Hold a running service to its throughput budget, with calls that are due whether or not it keeps up."""
    from loadtest import report, run  # noqa: PLC0415 - `optimize --help` loads no heavy library
    from serve.client.connection import Connection  # noqa: PLC0415 - as above

    declared = _declared(budget, model)
    qps = declared.throughput.qps
    if qps is None:
        raise UserError(f"{budget}: models.{model} has no throughput budget to test; declare throughput.qps")
    rate_qps = _positive("--rate", qps if rate is None else rate)
    calls = run.JUDGED_CALLS if duration is None else math.ceil(rate_qps * _positive("--duration", duration))
    if calls + rate_qps * run.LEAD_IN_S > run.MAX_CALLS:
        raise UserError(
            f"{calls:,} calls at {rate_qps:g} a second are more than one generator plans; wanted at most {run.MAX_CALLS:,}:"
            " lower --rate or --duration"
        )
    settings = run.Settings(
        connection=Connection(target, tls, tls_ca, tls_cert, tls_key, _token(token_file), insecure),
        model=model,
        budgets=declared,
        rate_qps=rate_qps,
        calls=calls,
        report_dir=report_dir,
        arrivals=arrivals,
        seed=seed,
        input_path=input_path,
        timeout_s=_positive("--timeout", timeout),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end the generator and leave no half report
    with _progress(settings) as show:
        found = run.run(settings, show)
    typer.echo(report.table(found))
    typer.echo(f"report: {report_dir / run.MARKDOWN_FILE}")
    return Exit(found.exit)


def _declared(path: Path, model: str) -> "ModelBudgets":
    from optimize import budgets  # noqa: PLC0415 - see above

    models = budgets.load(path).models
    if model not in models:
        raise UserError(f"{path}: has no model {model!r}; wanted one of {', '.join(models)}")
    return models[model]


def _token(path: Path | None) -> str:
    from loadtest.plan import TOKEN_VARIABLE  # noqa: PLC0415 - see above

    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a file that holds a token") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no UTF-8 text; name a file that holds a token") from None


def _positive(option: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UserError(f"{option} {value:g}: wanted a number above 0")
    return value


def _announce(settings: "Settings") -> None:
    from loadtest import run  # noqa: PLC0415 - see above

    typer.echo(
        f"{settings.model}: {settings.calls:,} calls at {settings.rate_qps:g} a second to {settings.target}, about"
        f" {settings.end_s:.0f} s with a lead-in of {settings.lead_in_s:g} s that is not judged",
        err=True,
    )
    if settings.calls < run.JUDGED_CALLS:
        typer.echo(
            f"{settings.model}: too few calls for a verdict, which takes {run.JUDGED_CALLS:,}; leave out --duration to make them",
            err=True,
        )


@contextmanager
def _progress(settings: "Settings") -> Iterator[Callable[[float], None]]:
    """Say what is offered once the load begins; a bar on a terminal, and nothing more elsewhere."""
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = TextColumn("calling"), BarColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("calling", start=False, total=settings.end_s)

    def show(elapsed_s: float) -> None:
        if not bar.tasks[task].started:
            _announce(settings)
            bar.start()
            bar.start_task(task)
        bar.update(task, completed=min(elapsed_s, settings.end_s))

    try:
        yield show
    finally:
        bar.stop()
