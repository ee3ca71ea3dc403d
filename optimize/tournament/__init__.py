"""The candidates of one model, measured stage by stage against its budgets, and the choice of the winner."""
