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


Target = Annotated[
    str,
    typer.Argument(
        metavar="HOST:PORT",
        help="gRPC address of your service; several replicas separated by commas are called in turn.",
    ),
]
Model = Annotated[str, typer.Option(help="Model to test, as the budgets file and the service name it.")]
BudgetsFile = Annotated[Path, typer.Option(help="The budgets file.")]
Rate = Annotated[float | None, typer.Option(help="Calls per second. Default: throughput.qps.")]
Duration = Annotated[
    float | None,
    typer.Option(help="Seconds to judge. Default: as long as 16,000 calls take, the fewest for a verdict."),
]
ReportFolder = Annotated[
    Path, typer.Option("--report", help="Folder for report.md, report.json and calls.npz.", file_okay=False)
]
Seed = Annotated[int, typer.Option(help="Seed of the arrivals and of the inputs.", min=0)]
Spacing = Annotated[Literal["poisson", "constant"], typer.Option(help="How calls are spaced.")]
Timeout = Annotated[float, typer.Option(help="Seconds after which a call is cancelled and counts as failed.")]
InputFile = Annotated[
    Path | None, typer.Option("--input", help="Rows to send, .npz or .parquet. Default: generated inputs.")
]
Tls = Annotated[bool, typer.Option("--tls", help="The service has TLS, with a certificate from a public CA.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the CA of the service's certificate.", dir_okay=False)]
TlsCert = Annotated[Path | None, typer.Option(help="PEM file of a certificate to call with.", dir_okay=False)]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.", dir_okay=False)]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the token to call with. Default: $PROVESERVE_TOKEN.", dir_okay=False),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Send a token to another machine without TLS.")]


def loadtest(  # noqa: PLR0913, PLR0917 - one parameter per option
    target: Target,
    model: Model,
    budget: BudgetsFile = Path("budgets.toml"),
    rate: Rate = None,
    duration: Duration = None,
    report_dir: ReportFolder = Path("loadtest-report"),
    seed: Seed = 0,
    arrivals: Spacing = "poisson",
    timeout: Timeout = 10.0,
    input_path: InputFile = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
) -> Exit:
    """Check a running service against its throughput budget, with calls on a schedule that never waits for answers."""
    from loadtest import run  # noqa: PLC0415 - `optimize --help` loads no heavy library
    from serve.client.connection import Connection  # noqa: PLC0415 - as above

    declared = _declared(budget, model)
    rate_qps, calls = _load(declared.throughput.qps, rate, duration, f"{budget}: models.{model}")
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
    return _run(settings)


def _load(declared_qps: float | None, rate: float | None, duration: float | None, place: str) -> tuple[float, int]:
    """Calls per second, and how many of them are judged."""
    from loadtest import run  # noqa: PLC0415 - see above

    if declared_qps is None:
        raise UserError(f"{place} has no throughput budget to test; declare throughput.qps")
    rate_qps = _positive("--rate", declared_qps if rate is None else rate)
    calls = run.JUDGED_CALLS if duration is None else math.ceil(rate_qps * _positive("--duration", duration))
    if calls + rate_qps * run.LEAD_IN_S > run.MAX_CALLS:
        raise UserError(
            f"{calls:,} calls at {rate_qps:g} per second are more than one generator can plan; wanted at most {run.MAX_CALLS:,}:"
            " lower --rate or --duration"
        )
    return rate_qps, calls


def _run(settings: "Settings") -> Exit:
    from loadtest import report, run  # noqa: PLC0415 - see above

    # Both signals end the generator, and leave no partial report.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _progress(settings) as show:
        found = run.run(settings, show)
    typer.echo(report.table(found))
    typer.echo(f"report: {settings.report_dir / run.MARKDOWN_FILE}")
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
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a file that contains a token") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; name a file that contains a token") from None


def _positive(option: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UserError(f"{option} {value:g}: wanted a number above 0")
    return value


def _announce(settings: "Settings") -> None:
    from loadtest import run  # noqa: PLC0415 - see above

    typer.echo(
        f"{settings.model}: {settings.calls:,} calls at {settings.rate_qps:g} per second to {settings.target}, about"
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
    """Announce the load when it begins, and show a bar on a terminal."""
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
