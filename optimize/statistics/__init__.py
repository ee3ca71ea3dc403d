"""Rules that turn observations into PASS, FAIL or INCONCLUSIVE, each with its interval and one sentence of evidence.

    finding     what every rule returns
    binomial    exact tails and bounds of a share, and the samples that would settle it
    bootstrap   resampled statistics in bounded memory
    metrics     the built-in accuracy metrics
    accuracy    drop and agreement of a candidate against the source model
    percentile  a latency percentile against its limit
    blocks      the same where calls are not independent
    comparison  two candidates, interleaved

Nothing here measures, reads or writes anything: the same observations and the same seed give the same verdict. What each rule
promises, and how often it errs in simulation, stands in docs/statistics.md.
"""
