"""The candidates of one model against its budgets: the stages in order, the choice of the winner, and its publication.

    setup       read the source and its samples, and convert the source to ONNX
    entry       build the candidates
    stages      the stages of a candidate in order; each calls what `judging` has for it
    judging     one file per budget
    rounds      take every remaining candidate through one stage
    winner      the best of those that meet every budget; `choice` has its rules
    publish     the manifest of the winner

`tournament` and `candidate` are the records that go through all of this. `golden` records the answers that loaders replay, and
`estimate` says how long an export takes.
"""
