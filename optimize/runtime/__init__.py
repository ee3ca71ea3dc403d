"""Run a published artefact: the only code that opens a model, for measuring and for serving alike.

    session   one open model, a context manager
    curve     predicted latency per batch size, from a manifest
    forecast  predicted latency of the next execution, from the curve and from how the last ones went
    joining   join the rows of several requests, and cut the answers apart
    line      waiting requests in order of urgency, and the work they stand for
    packing   who shares the next execution: pure
    policy    whose turn it is, and who can be answered in time: pure
    tally     a histogram in the making
    counters  what became of all requests
    slot      one session at work, and the search for the request that made it fail
    batcher   many callers, few executions: the loop around the policy

numpy and one onnxruntime are all it needs besides msgspec, so that an artefact also runs at the edge.
"""
