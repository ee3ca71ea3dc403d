"""Run a published artefact: the only code that opens a model, both for measuring and for serving.

    session    one open model, a context manager
    golden     replay recorded inputs, and compare the answers
    batching/
        curve             predicted latency per batch size, from a manifest
        latency_model     predicted latency of the next execution, from the curve and from how the last ones went
        collate           the rows of several requests as one batch, and its outputs as one answer each
        queue             queued requests in order of urgency, and the work they add up to
        batch_formation   which requests share the next execution: pure
        scheduler         which requests run next, and which can be answered in time: pure
        retry_after       when refused callers should retry
        histogram         counts per bucket
        counters          how all requests ended
        rejections        why a request gets no answer
        calls             a request and its caller
        worker            one session at work, and the search for the request that made it fail
        dispatcher        the queue and the workers, shared by the event loop and the threads
        batcher           many callers, few executions: the asyncio front

It needs only numpy, msgspec and one onnxruntime, so that an artefact also runs at the edge.
"""
