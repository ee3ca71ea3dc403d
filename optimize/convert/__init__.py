"""From a source model to what can be judged: the baseline ONNX graph, and the candidates that are built from it."""
