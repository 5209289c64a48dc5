"""Every RPC of the API, read from the proto descriptors."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from session_authority import v1


@dataclass(frozen=True)
class Rpc:
    """One method of one service."""

    service: str
    method: str
    request: Descriptor
    response: Descriptor
    streams_requests: bool
    streams_responses: bool

    @property
    def path(self) -> str:
        """Return the path of its calls."""
        return f"/{self.service}/{self.method}"

    @property
    def response_type(self) -> type[Message]:
        return message_factory.GetMessageClass(self.response)

    def call(
        self,
        channel: grpc.Channel,
        body: bytes,
        *,
        metadata: Iterable[tuple[str, str | bytes]] = (),
        timeout: float,
    ) -> bytes:
        """Send bytes unchanged. Return the bytes of the answer, or of a stream's first message.

        Raises:
            grpc.RpcError: The call failed.
        """
        given = tuple(metadata)
        if not (self.streams_requests or self.streams_responses):
            unary: Any = channel.unary_unary(self.path)
            answer: bytes = unary(body, metadata=given, timeout=timeout)
            return answer
        stream: Any = channel.stream_stream(self.path)
        answers = stream(iter([body]), metadata=given, timeout=timeout)
        first: bytes = next(answers, b"")
        answers.cancel()
        return first

    def __str__(self) -> str:
        return self.method


def _files() -> Iterator[FileDescriptor]:
    for module in pkgutil.iter_modules(v1.__path__):
        if module.name.endswith("_pb2"):
            descriptor: FileDescriptor = importlib.import_module(
                f"{v1.__name__}.{module.name}"
            ).DESCRIPTOR
            yield descriptor


def _rpcs() -> Iterator[Rpc]:
    for file in _files():
        for service in file.services_by_name.values():
            for method in service.methods:
                yield Rpc(
                    service.full_name,
                    method.name,
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )


RPCS = sorted(_rpcs(), key=lambda rpc: rpc.path)
SERVICES = sorted({rpc.service for rpc in RPCS})


def served_by(channel: grpc.Channel) -> set[str]:
    """Return the services of the API that a server lists by reflection."""
    reflection: Any = ServerReflectionStub(channel)
    asked = ServerReflectionRequest(list_services="")
    answer = next(reflection.ServerReflectionInfo(iter([asked]), timeout=30))
    listed = {service.name for service in answer.list_services_response.service}
    return listed.intersection(SERVICES)
