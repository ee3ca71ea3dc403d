"""One budget, one file: how it is measured and judged.

size       `size.mb`
memory     `memory.peak_mb`
accuracy   `accuracy.max_drop` and `accuracy.min_agreement`
latency    `latency.p50_ms` and `latency.p99_ms`
speed      `speed.min_speedup` and `speed.max_slowdown`
cost       `cost.max_per_million`
load       `throughput.qps` and `throughput.p99_ms`

screen     before the budgets: threads, and whether a candidate comes anywhere near its latency budgets
noise      how much the machine's own timings differ
timing     two candidates timed in turns, for `noise`, `speed` and the choice of the winner
"""
