"""The details of a failed call."""

from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

Kind = TypeVar("Kind", bound=Message)


def status_of(error: Any) -> Status:
    """Return the rich status of a gRPC error, or an empty one."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return Status.FromString(value)
    return Status()


def details_of(error: Any, kind: type[Kind]) -> Kind:
    """Return the details of one type, or an empty message."""
    found = kind()
    any(each.Unpack(found) for each in status_of(error).details)
    return found


def reason_of(error: Any) -> str:
    """Return the authority's reason, or an empty string if the error is not the authority's."""
    info = details_of(error, ErrorInfo)
    assert info.domain in {"session-authority", ""}
    return str(info.reason)
