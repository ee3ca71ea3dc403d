"""The methods of the protocol: Open Inference and gRPC's health checks."""

from typing import NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from protos import open_inference_pb2

INFER = "ModelInfer"

_MODEL_FIELDS = ("model_name", "name", "service")


class Rpc(NamedTuple):
    """One method of a service; `model_field` is the field of its request that names a model, if there is one."""

    service: str
    name: str
    request: type[Message]
    streams: bool
    model_field: str | None

    @property
    def path(self) -> str:
        """Its name on the wire."""
        return f"/{self.service}/{self.name}"

    def model(self, request: Message) -> str:
        """The model that a request names; empty if it names none."""
        return "" if self.model_field is None else getattr(request, self.model_field)


def _rpc(method: MethodDescriptor) -> Rpc:
    named = [field for field in _MODEL_FIELDS if field in method.input_type.fields_by_name]
    return Rpc(
        method.containing_service.full_name,
        method.name,
        GetMessageClass(method.input_type),
        method.server_streaming,
        named[0] if named else None,
    )


RPCS = tuple(
    _rpc(method)
    for service in (
        open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
    )
    for method in service.methods
)
SERVICES = tuple(dict.fromkeys(rpc.service for rpc in RPCS))
