"""The user's side: "file.py:attr", "pkg.mod:attr", .onnx or .pt2 become a live model, its samples and its metric.

    imports             import strings to objects
    samples             the labelled samples of a callable, checked, in three splits
    sample_file         the same from a .npz or .parquet file
    split_file          a split on disk, which later stages read without the user's code
    shaping             real samples brought to a wanted shape
    model               the source model: named arrays in, named arrays out
    preprocess          raw columns to inputs, by the user's callable
    preprocess_package  the code of `preprocess`, published with a version
    model_ref           what a stage measures: the source model or an artefact
    loading             read all of this, and digest it

Only child processes of an export import the heavy parts. User code prints, crashes and leaks there, not in the command.
"""
