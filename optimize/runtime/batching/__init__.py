"""The dynamic batcher: many callers, few executions. It knows the measured cost of a batch and every caller's deadline.

batcher     the asyncio front: admission, deadlines, cancellation
dispatcher  the queue and the workers, shared by the event loop and the threads
scheduling  the decisions, pure
worker      one session with its thread, and the search for the request that made it fail
collate     the rows of several requests as one batch, and its outputs as one answer each
calls       a request and its caller
options     the bounds of one model's batcher
rejections  why a request gets no answer
counters    how all requests ended
histogram   counts per bucket
"""
