"""Server reflection describes every service, and every message that a call or an error carries."""

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from session_authority_server.rpc.methods import SERVICES
from tests.support.hosts import HOSTS, new_dispatcher, serving

VERSIONS = ("v1", "v1alpha")
REFLECTION = [f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS]
HEALTH = "grpc.health.v1.Health"
ERROR_DETAILS = [each.DESCRIPTOR.full_name for each in (ErrorInfo, BadRequest, RetryInfo)]


async def ask(host: str, version: str, *requests: ServerReflectionRequest) -> list[Any]:
    """Return the answers of one stream."""
    async with (
        serving(host, new_dispatcher()) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        method: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )
        return [answer async for answer in method(iter(requests), timeout=60)]


def containing(symbol: str) -> ServerReflectionRequest:
    return ServerReflectionRequest(file_containing_symbol=symbol)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
async def test_both_versions_list_and_describe_every_service(host: str, version: str) -> None:
    names = [*REFLECTION, HEALTH, *(each.full_name for each in SERVICES)]
    listed, *described = await ask(
        host,
        version,
        ServerReflectionRequest(list_services=""),
        *map(containing, names),
    )
    assert {each.name for each in listed.list_services_response.service} == set(names)
    for name, answer in zip(names, described, strict=True):
        service = pool_of(answer).FindServiceByName(name)
        assert [each.name for each in service.methods]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("host", HOSTS)
async def test_the_messages_that_errors_carry_can_be_resolved(host: str, version: str) -> None:
    reason = "session_authority.v1.ErrorReason"
    *details, reasons = await ask(host, version, *map(containing, [*ERROR_DETAILS, reason]))
    for name, answer in zip(ERROR_DETAILS, details, strict=True):
        assert pool_of(answer).FindMessageTypeByName(name).fields
    assert "ERROR_REASON_SESSION_NOT_LIVE" in (
        pool_of(reasons).FindEnumTypeByName(reason).values_by_name
    )


async def test_the_file_of_the_error_details_has_its_usual_name() -> None:
    file = "google/rpc/error_details.proto"
    [answer] = await ask("grpcio", "v1", ServerReflectionRequest(file_by_filename=file))
    assert pool_of(answer).FindFileByName(file).package == "google.rpc"


async def test_an_unknown_symbol_is_not_found() -> None:
    [answer] = await ask("grpcio", "v1", containing("session_authority.v1.Password"))
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def pool_of(answer: Any) -> DescriptorPool:
    """Return the files of an answer. The answer must have every file that another one imports."""
    described = answer.file_descriptor_response.file_descriptor_proto
    files = {file.name: file for file in map(FileDescriptorProto.FromString, described)}
    pool = DescriptorPool()

    def add(name: str) -> None:
        for dependency in files[name].dependency:
            add(dependency)
        pool.Add(files[name])

    for name in files:
        add(name)
    return pool
