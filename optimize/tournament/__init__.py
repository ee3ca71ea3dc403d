"""The candidates of one model against its budgets: one file per thing that is judged, the stages in order, and the winner.

    setup       read the source and its samples, and convert the source to ONNX
    entry       build the candidates
    stages      the stages in order; each calls what is judged in it:
                    size, screen, memory, accuracy, latency, speed, cost, load
    rounds      take every remaining candidate through one stage
    winner      the best of those that meet every budget; `choice` has its rules
    publish     the manifest of the winner

`tournament` and `candidate` are the records that go through all of this. `noise` and `timing` time two candidates in turns, `golden`
records the answers that loaders replay, and `estimate` says how long an export takes.
"""
