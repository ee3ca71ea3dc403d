"""Run a published artefact: the only code that opens a model, for measuring and for serving alike.

    session   one open model, a context manager
    curve     predicted latency per batch size, from a manifest
    batcher   which requests share an execution, and when

numpy and one onnxruntime are all it needs besides msgspec, so that an artefact also runs at the edge.
"""
