"""The thin gRPC edge: from the bytes of a call to the servicer and back, with the right status."""
