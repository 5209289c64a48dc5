"""Server reflection, in the versions v1 and v1alpha."""

from functools import cache
from typing import Any, TypeAlias

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from session_authority.v1 import error_reason_pb2
from session_authority_server.rpc.methods import SERVICES

REFLECTION_SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
# Errors carry messages of these files, which no service names.
_FILES_FOR_ERRORS = (error_reason_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def reflection_handler() -> Handler:
    """Return the handler of `ServerReflectionInfo` in both versions.

    The versions differ only in the names of their package. The library has v1alpha alone.
    """
    health: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
    services: tuple[ServiceDescriptor, ...] = (*SERVICES, health)
    names = (*REFLECTION_SERVICES, *(each.full_name for each in services))
    servicer: Any = aio.ReflectionServicer(names, _descriptors(services))
    return grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )


@cache
def _descriptors(services: tuple[ServiceDescriptor, ...]) -> DescriptorPool:
    pool = DescriptorPool()
    for file in (*(each.file for each in services), *_FILES_FOR_ERRORS, reflection_pb2.DESCRIPTOR):
        _add(pool, file)
    pool.Add(_reflection_v1())
    return pool


def _add(pool: DescriptorPool, file: FileDescriptor) -> None:
    """Add a file and its dependencies. A file that is already present stays as it is."""
    for dependency in file.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(file.serialized_pb)


def _reflection_v1() -> FileDescriptorProto:
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.options.ClearField("deprecated")
    text = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
