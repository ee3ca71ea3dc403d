"""From a source model to candidates: the baseline ONNX graph, then the files of each candidate.

onnx_export      write the source's graph as an ONNX file
output_specs     find the outputs and their named axes by running it
baseline         the checked FP32 graph: it answers as the source does, within a stated difference
candidate_specs  which precisions on which runtimes apply, and why the others do not
candidate_build  build one candidate from the baseline, with its recipe
"""
