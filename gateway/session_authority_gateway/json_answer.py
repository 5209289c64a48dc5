"""The answers of the JSON API: messages and errors in the form of Connect.

https://connectrpc.com/docs/protocol#unary-request
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict, MessageToJson
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

CONTENT_TYPE = "application/json"
OUTAGE_RETRY_SECONDS = 5

# https://connectrpc.com/docs/protocol#error-codes
_HTTP_STATUSES: Mapping[StatusCode, int] = {
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
_NAMES: Mapping[StatusCode, str] = {
    code: "canceled" if code is StatusCode.CANCELLED else code.name.lower()
    for code in _HTTP_STATUSES
}
_DETAILS: Sequence[type[Message]] = (ErrorInfo, BadRequest, RetryInfo)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A response: its status, its headers and its body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def success(message: Message) -> HttpAnswer:
    """Return the response with a message. Fields without a value have their default."""
    text = MessageToJson(message, always_print_fields_with_no_presence=True, indent=None)
    return HttpAnswer(200, (), text.encode())


def failure(
    code: StatusCode,
    message: str,
    details: bytes | None = None,
    *,
    status: int | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> HttpAnswer:
    """Return the response with an error.

    Args:
        code: The code of gRPC.
        message: The problem, and how to correct it.
        details: A serialized `google.rpc.Status`, which has the details.
        status: The HTTP status, if it is not Connect's for the code.
        headers: Further headers.
    """
    body: dict[str, Any] = {"code": _NAMES[code], "message": message}
    more = list(headers)
    found = _unpacked(details)
    if found:
        body["details"] = [_detail(each) for each in found]
    if code is StatusCode.UNAUTHENTICATED:
        more.append(("www-authenticate", "Bearer"))
    if (seconds := _retry_after(code, found)) is not None:
        more.append(("retry-after", str(seconds)))
    return HttpAnswer(status or _HTTP_STATUSES[code], tuple(more), json.dumps(body).encode())


def _unpacked(details: bytes | None) -> list[AnyMessage]:
    try:
        return list(Status.FromString(details or b"").details)
    except DecodeError:
        return []


def _detail(packed: AnyMessage) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "type": packed.TypeName(),
        "value": base64.b64encode(packed.value).decode().rstrip("="),
    }
    for kind in _DETAILS:
        message = kind()
        if packed.Unpack(message):
            detail["debug"] = MessageToDict(message)
    return detail


def _retry_after(code: StatusCode, details: Sequence[AnyMessage]) -> int | None:
    """Return the whole seconds after which a repetition may succeed. None if it would fail again."""
    retry = RetryInfo()
    if any(each.Unpack(retry) for each in details):
        delay: timedelta = retry.retry_delay.ToTimedelta()
        return max(1, math.ceil(delay.total_seconds()))
    return OUTAGE_RETRY_SECONDS if code is StatusCode.UNAVAILABLE else None
