"""Recipes: each makes one candidate's files out of an FP32 ONNX file, and knows nothing of budgets or measuring.

    graph.prepare         an FP32 file that every recipe and runtime can read; all recipes start from it
    fp16.build            FP16 where it holds the values (fp16_operands: which operands may change)
    int8_dynamic.build    8-bit weights; activations are quantised in every call
    int8_static.build     Q/DQ pairs with ranges from samples:
                              calibration, noise      can the samples calibrate a model?
                              folding                 what a quantiser should see as one weight
                              ranges, histograms      which values do tensors take?
                              clipping                how much of each range to keep
                              placement               which nodes compute in 8 bits?
                              qdq, weights, embedding_tables    write it into the graph
    tensorrt.build        an engine from one of the graphs above
    nothing_changed       why a recipe had nothing to change

A recipe returns a :class:`~optimize.recipes.recipe_result.RecipeResult` record, which counts the nodes that really changed, or raises
:class:`~optimize.errors.CandidateError` with the cause in one sentence. The modules load onnx and onnxruntime when they are
imported, the package itself does not.
"""
