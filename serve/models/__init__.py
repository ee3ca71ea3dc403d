"""What a replica hosts.

compatibility  may this machine serve this version?
loading        open one version: digests, golden answers, largest batch, batcher
preprocessing  requests of raw columns, by the version's own code
hosting        the open versions, found by model name and version
versions       follow the registry: open the version that becomes current, and close the one before
health         the status that grpc.health.v1 reports
refused        the error that refuses a call
"""
