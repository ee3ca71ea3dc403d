"""What does it cost? Each measurement runs in a fresh process and returns a record.

    workload     real requests of the wanted shape, in rotation
    screen       a first short look: does it open, does it answer sanely, how fast is it about?
    latency      milliseconds of single calls, after a warm-up
    curve        latency per batch size, which the batcher plans with
    interleaved  two models timed in turns in one process
    memory       peak resident memory of a process that serves the artefact
    operating    the best threads, instances and batch size, for single requests and for bulk
    throughput   Poisson arrivals through the batcher that serves
    golden       inputs and answers that each loader replays later

Nothing here judges: :mod:`optimize.tournament` checks the records against the budgets.
"""
