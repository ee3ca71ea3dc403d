"""The pure decisions of the batcher: who runs next, with whom, and how long that takes. No thread, no clock, no I/O.

queue            queued requests in order of urgency, and the work they add up to
batch_formation  which requests share the next execution
scheduler        which requests run next, and which can be answered in time
curve            measured latency per batch size, from a manifest
latency_model    predicted latency of the next execution, from the curve and the last executions
retry_after      when refused callers should retry
"""
