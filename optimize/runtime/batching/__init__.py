"""The dynamic batcher: a scheduler that knows the measured cost of a batch and every caller's deadline."""
