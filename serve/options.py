"""The options of `optimize serve`."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from serve.plan import Route
from serve.processes.log_relay import LogFormat

RegistryOption: TypeAlias = Annotated[
    str, typer.Option(help="Registry that `optimize export` published to: a folder or s3://bucket/prefix.")
]
ModelOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Model to serve, or MODEL@VERSION to stay with; may be repeated. Default: all."),
]
HostOption: TypeAlias = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption: TypeAlias = Annotated[
    int, typer.Option(help="Port of the first replica, or of HAProxy; 0 picks a free one.", min=0, max=65535)
]
ReplicasOption: TypeAlias = Annotated[int, typer.Option(help="Processes that serve, each on a port of its own.", min=1)]
HaproxyOption: TypeAlias = Annotated[
    bool, typer.Option("--haproxy", help="One address for all replicas: HAProxy spreads the calls over them.")
]
RouteOption: TypeAlias = Annotated[
    Route, typer.Option(help="Straight to the models, or through Ray Serve's own handling.")
]
TlsCertOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="PEM file of the certificate chain to serve with; takes --tls-key.", dir_okay=False),
]
TlsKeyOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="PEM file of the certificate's key, without a password.", dir_okay=False)
]
ClientCaOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="PEM file of a CA: only clients with a certificate of it may connect.", dir_okay=False),
]
TokensOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Tokens file of `optimize token`: calls need a token of it.", dir_okay=False)
]
MetricsPortOption: TypeAlias = Annotated[
    int,
    typer.Option(help="Port of the first replica's metrics, on loopback; 0 picks a free one.", min=0, max=65535),
]
ConfigOutOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Serve nothing; write a config for Ray's `serve deploy`, sized by the budgets.", dir_okay=False),
]
MaxReplicasOption: TypeAlias = Annotated[
    int | None, typer.Option(help="With --config-out: scale with the load, up to so many replicas.", min=1)
]
InsecureOption: TypeAlias = Annotated[bool, typer.Option("--insecure", help="Let other machines call without TLS.")]
LogOption: TypeAlias = Annotated[
    LogFormat, typer.Option(help="Log on stderr as text or as JSON; auto: text on a terminal, else JSON.")
]
