"""The thin gRPC edge: from the bytes of a call to the servicer and back, with the right status.

rpcs             the methods of the protocol
limits           what one caller, or one connection, may ask
admission        token and deadline, checked before the message is read
call             one call: parsed, checked against its token's rights, counted
native_handlers  the native route: gRPC calls the servicer directly
public_route     the public route: calls pass through Ray Serve's own handling
servicer         the methods on parsed messages; knows neither gRPC below nor Ray above
status           errors as gRPC statuses
reflection       gRPC's description of the service, for tools without the .proto file
grpc_patches     every change to gRPC's internals
"""
