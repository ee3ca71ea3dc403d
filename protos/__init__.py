"""Wire formats and their generated stubs; run ``python -m protos.generate`` after a change."""
