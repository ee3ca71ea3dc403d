"""The candidates of one model against its budgets: one file per thing that is judged, the stages in order, and the winner.

setup       read the source and its samples, and convert the source to ONNX
entry       build a candidate
stages      the stages in order; each calls what is judged in it:
size, screen, memory, accuracy, latency, speed, cost, load
rounds      take every remaining candidate through one stage
winner      the best of those that meet every budget; choice has its rules
publish     the manifest of the winner
"""
