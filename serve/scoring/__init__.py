"""Score a Parquet file with a published model: `optimize score`.

cli            the command
job            the whole job, in order
input_file     the input: its columns, and its rows slice by slice
partition      how the rows are cut into tasks
output_folder  the output: what the job is, and its parts
pool           tasks over workers, and again over others where a worker died
worker         one open model that scores tasks
columns        Parquet columns to the tensors of a slice of rows
raw_columns    the same from raw columns, by the version's own code
batches        which rows share an execution
answers        the model's answers to Parquet columns
progress       a bar on a terminal, plain lines elsewhere
"""
