"""Recipes: each makes one candidate's files out of a checked FP32 ONNX file, and knows nothing of budgets or measuring.

    graph.prepare            -> an FP32 file that every recipe and runtime can read
    int8_static.build        -> Q/DQ nodes with ranges from calibration samples
                                (calibration: which samples will do; ranges: what values they give)

A recipe returns a :class:`~optimize.recipes.built.Built` record, which counts the nodes that really changed, or raises
:class:`~optimize.errors.CandidateError` with the cause in one sentence. The modules load onnx and onnxruntime when they are
imported, the package itself does not.
"""
