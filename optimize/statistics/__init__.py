"""Rules that turn observations into PASS, FAIL or INCONCLUSIVE, each with its interval and one sentence of evidence.

    finding     what every rule returns
    arrivals    when each call of an open-loop load is due
    quantile    the one definition of a percentile
    binomial    exact tails and bounds of a share, and the samples that would settle it
    ranks       ranks, and the correlations made of them
    bootstrap   resampled statistics in bounded memory
    paired      the difference of two shares on the same samples
    drop        accuracy drop and agreement of a candidate against the source model
    metrics     the built-in accuracy metrics
    blocks      a latency percentile where calls are not independent
    percentile  a latency percentile against its limit
    comparison  two candidates, timed interleaved

Nothing here measures, reads or writes anything: the same observations and the same seed give the same verdict. docs/statistics.md has
what each rule promises, and how often it errs in simulation.
"""
