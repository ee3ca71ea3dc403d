"""Run a published artefact: the only code that opens a model, both for measuring and for serving.

    session    one open model, a context manager
    golden     replay recorded inputs, and compare the answers
    batching   the dynamic batcher

It needs only numpy, msgspec and one onnxruntime, so that an artefact also runs at the edge.
"""
