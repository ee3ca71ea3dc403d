"""Wire formats and their generated stubs; ``python -m protos.generate`` writes the stubs again after a change."""
