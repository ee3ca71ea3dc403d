"""What does it cost? Each measurement runs in a fresh process and returns a record.

workload    real requests of the wanted shape, in rotation
latency     milliseconds of single calls
curve       latency per batch size
comparison  two model_refs interleaved in one process
memory      peak resident memory of a process that serves the artefact
"""
