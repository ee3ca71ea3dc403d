"""One budget, one file: how each is measured and judged; `screen` and `noise` come before the budgets, `timing` serves several."""
