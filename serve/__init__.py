"""Serve published models over gRPC, score files with them.

codec       messages <-> numpy arrays
client      calls as dicts of arrays
connection  what a caller reaches a service by: address, certificates, token
retry       when a call may be made again
status      what went wrong -> gRPC codes
health      what grpc.health.v1 reports
fitness     whether a version can be served on this machine
raw         requests of raw columns, preprocessed by the version's own code
hosting     the models of one process: opened, checked, batched, found
choices     which versions of which models are served
versions    a replica's versions: the named ones, and the current one wherever it goes
servicer    the protocol's methods
security    who may call what, and where a service may listen
tokens      the tokens file, and `optimize token`
tls         the certificate files
watched     files that may change while a service runs
routes      how calls reach them: a bare grpc.aio server, or Ray Serve
reflection  what grpcurl and its like ask
metrics     what a replica tells Prometheus
logs        events, as lines of JSON
footprint   a replica's memory, and what its models may take
healing     when a replica is sick
checkup     what that suggests, confirmed before it is called sick
load        what a replica tells Ray Serve's autoscaler
scaling     how many replicas that makes
plan        what one service runs, and where
config      the same for a cluster, for `serve deploy`
ports       who is in the way of one
haproxy     one address for all replicas
hardening   every change to Ray's defaults and internals
deployment  what runs in a replica
app         a service from start to end
interrupt   Ctrl-C and SIGTERM, heeded where it is safe
guard       ends every process of a command, whatever becomes of the command itself
scoring     `optimize score`
cli         `optimize serve`
"""
