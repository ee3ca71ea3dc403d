"""Is it still right? The answers of source and candidate to the same samples, and what their difference shows.

answers   run one model over a split once; every metric reads the stored answers
accuracy  the drop and the agreement on one split, as findings
"""
