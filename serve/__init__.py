"""Serve published models over gRPC (`optimize serve`), and score files with them (`optimize score`)."""
