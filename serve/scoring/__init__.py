"""Score a Parquet file with a published model: `optimize score`.

plan      how the rows are cut into tasks
columns   Parquet columns -> the tensors of a slice of rows
batches   which rows share an execution
answers   what the model answered -> Parquet columns
source    the input file: what it holds, read slice by slice
folder    the output folder: its job, its parts
worker    one open model that scores tasks
cluster   a local Ray that lives as long as the job
pool      tasks over workers, and again over others where a worker died
progress  a bar on a terminal, plain lines elsewhere
job       the story, in order
cli       `optimize score`
"""
