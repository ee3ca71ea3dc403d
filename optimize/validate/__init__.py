"""Is it still right? Answers of source and candidate to the same samples, and what their difference proves.

answers   run one model_ref over a split once; every metric reads the stored answers
accuracy  hold drop and agreement against their budgets
"""
