"""Serve published models over gRPC (`optimize serve`), and score files with them (`optimize score`).

`cli` checks the options and the versions, and makes a `plan` of what runs where. `rayserve` starts the replicas. Each replica hosts
its `models` behind the gRPC edge of `transport`, with the checks of `access`, and `monitoring` watches it. `processes` starts and ends
what belongs to the service on this machine. `scoring` runs batch jobs and knows nothing of the service. A program that calls a service
needs `client` only. docs/architecture.md follows one request through all of it.
"""
