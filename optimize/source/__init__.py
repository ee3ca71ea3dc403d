"""The user's side: "file.py:attr", "pkg.mod:attr", .onnx or .pt2 become a live model, its samples and its metric.

    imports     import strings to objects
    model       the source model, which answers named arrays with named arrays
    samples     the three splits of labelled samples, checked and stored
    preprocess  raw columns to inputs

Only child processes of an export import this package's heavy parts: user code prints, crashes and leaks there, not in the command.
"""
