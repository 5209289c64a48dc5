"""Every RPC: the permission that it needs, its largest request, and whether a client may retry it by itself.

CONTRIBUTING.md lists what a new RPC needs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from session_authority.v1 import (
    session_admin_service_pb2,
    session_event_service_pb2,
    session_service_pb2,
    session_watch_service_pb2,
)
from session_authority_server.domain.api_key import Permission

REQUEST_LIMIT_BYTES = 64 * 1024
BATCH_REQUEST_LIMIT_BYTES = 1024 * 1024

SESSION_SERVICE = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
ADMIN_SERVICE = session_admin_service_pb2.DESCRIPTOR.services_by_name["SessionAdminService"]
WATCH_SERVICE = session_watch_service_pb2.DESCRIPTOR.services_by_name["SessionWatchService"]
EVENT_SERVICE = session_event_service_pb2.DESCRIPTOR.services_by_name["SessionEventService"]
SERVICES: tuple[ServiceDescriptor, ...] = (
    SESSION_SERVICE,
    ADMIN_SERVICE,
    WATCH_SERVICE,
    EVENT_SERVICE,
)


class Retry(Enum):
    """The calls of an RPC that a client may retry by itself after an outage or an overload."""

    ALWAYS = "a second call does no more than the first"
    WITH_RETRY_SECRET = "only a call with a `retry_secret` gets the same answer again"  # noqa: S105 - no secret
    NEVER = "the caller opens another stream, and must learn that the earlier one is lost"


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for one RPC.

    Attributes:
        permission: The permission that the caller's API key must have.
        request_limit_bytes: The largest size of a request.
        retry: The calls that a client may retry by itself. A test proves that the client follows this rule.
    """

    permission: Permission
    request_limit_bytes: int = REQUEST_LIMIT_BYTES
    retry: Retry = Retry.ALWAYS


_RULES: Mapping[str, Rule] = {
    "CreateSession": Rule(Permission.CREATE, retry=Retry.WITH_RETRY_SECRET),
    "ReauthenticateSession": Rule(Permission.CREATE, retry=Retry.WITH_RETRY_SECRET),
    "ValidateSession": Rule(Permission.VALIDATE),
    "BatchValidateSessions": Rule(Permission.VALIDATE, BATCH_REQUEST_LIMIT_BYTES),
    "ListSessions": Rule(Permission.MANAGE),
    "RevokeSession": Rule(Permission.MANAGE),
    "NameSession": Rule(Permission.MANAGE),
    "RevokeOtherSessions": Rule(Permission.MANAGE),
    "SignOut": Rule(Permission.MANAGE),
    "WatchSessions": Rule(Permission.WATCH, retry=Retry.NEVER),
    "RevokeUserSessions": Rule(Permission.TERMINATE),
    "RevokeAllSessions": Rule(Permission.TERMINATE),
    "RevokeOneSession": Rule(Permission.TERMINATE),
    "RevokeKeySessions": Rule(Permission.TERMINATE),
    "RevokeIdentitySessions": Rule(Permission.TERMINATE),
    "EraseUser": Rule(Permission.TERMINATE),
    # Public data. Every gateway may validate.
    "GetEventTransmitter": Rule(Permission.VALIDATE),
    "CreateEventStream": Rule(Permission.RECEIVE),
    "GetEventStream": Rule(Permission.RECEIVE),
    "UpdateEventStream": Rule(Permission.RECEIVE),
    "DeleteEventStream": Rule(Permission.RECEIVE),
    "SetEventStreamStatus": Rule(Permission.RECEIVE),
    "VerifyEventStream": Rule(Permission.RECEIVE),
    "PollEventStream": Rule(Permission.RECEIVE),
}


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC.

    Attributes:
        path: The HTTP/2 path, `/package.Service/Name`.
        name: The name of the RPC without its service.
        parse: Parses the bytes of a request.
        streams: Whether requests and responses are streams.
        batched: Whether calls that wait together are answered together.
        rule: The rule for the RPC.
    """

    path: str
    name: str
    parse: Callable[[bytes], Message]
    streams: bool
    batched: bool
    rule: Rule


def _methods() -> Iterator[Method]:
    for service in SERVICES:
        for each in service.methods:
            yield _method(service, each)


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    return Method(
        f"/{service.full_name}/{method.name}",
        method.name,
        GetMessageClass(method.input_type).FromString,
        method.client_streaming or method.server_streaming,
        method.name == "ValidateSession",
        _RULES[method.name],
    )


# This import fails for an RPC without a rule, so no such RPC can be served.
METHODS: Mapping[str, Method] = {each.path: each for each in _methods()}
