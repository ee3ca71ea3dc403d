"""How a stage of an export runs: in a fresh process, with limits, and with its result remembered.

child_process  a module in its own process group, which ends with this process
isolation      one function in a fresh process, with a time limit and a memory limit
keys           what names a result: the function and the contents of its arguments
cache          results by key: folders of built files, and measured records
machine        the processor, cores, memory, tools and GPUs of this machine
progress       the steps of a run, on stderr
atomic         local files that appear whole or not at all
environment    everything that a run takes from the machine, in one place; tests replace it
stage_runner   all of the above for the stages of one model
"""
