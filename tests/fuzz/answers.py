"""The oracle of every fuzzer: the rules for each answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from session_authority_server.domain.token import TOKEN_PATTERN
from session_authority_server.rpc.error_table import ERROR_DOMAIN, TABLE
from tests.support.api import Rpc

# No input may cause these statuses, which mean that the authority is at fault.
FAULTS_OF_THE_AUTHORITY = frozenset(
    ("INTERNAL", "STORE_UNAVAILABLE", "CLOCK_WRONG", "DEADLINE_EXCEEDED", "SERVER_OVERLOADED")
)
_CODES = {
    row.reason: row.code for row in TABLE.values() if row.reason not in FAULTS_OF_THE_AUTHORITY
}
# Clients with gRPC's default settings reject an answer with more metadata.
TRAILERS_LIMIT_BYTES = 8 * 1024
_PART = re.compile(r"(?P<name>\w+)(?P<index>\[.*\])?", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """How a call was answered."""

    code: grpc.StatusCode
    body: bytes = b""
    message: str = ""
    trailers: Sequence[tuple[str, str | bytes]] = ()

    @property
    def status(self) -> Status:
        """Return the ErrorInfo of the details, or an empty one."""
        for key, value in self.trailers:
            if key == "grpc-status-details-bin" and isinstance(value, bytes):
                return Status.FromString(value)
        return Status()

    @property
    def reason(self) -> str:
        """Return the reason of an error, or an empty string."""
        info = ErrorInfo()
        found = [info.reason for each in self.status.details if each.Unpack(info)]
        return found[0] if found else ""


def faults(rpc: Rpc, answer: Answer) -> list[str]:
    """Return every way in which an answer differs from the documentation."""
    if answer.code is grpc.StatusCode.OK:
        try:
            rpc.response_type.FromString(answer.body)
        except DecodeError:
            return ["the answer is no message of its type"]
        return []
    if rpc.streams_responses and answer.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return []  # a stream lasts until its caller ends it
    return [*_faults_of_status(answer), *_faults_of_fields(rpc, answer)]


def _faults_of_status(answer: Answer) -> Iterator[str]:
    status, info = answer.status, ErrorInfo()
    for detail in status.details:
        if not any(detail.Is(kind.DESCRIPTOR) for kind in (ErrorInfo, BadRequest, RetryInfo)):
            yield f"a detail of an undocumented kind: {detail.type_url}"
        detail.Unpack(info)
    if _CODES.get(info.reason) is not answer.code or info.domain != ERROR_DOMAIN:
        yield f"{answer.code.name} with the reason {info.reason!r}: {answer.message!r}"
    if (status.code, status.message) != (answer.code.value[0], answer.message):
        yield "the details tell another status"
    # The size as HTTP/2 counts it, in gRPC's encoding.
    size = len(quote(answer.message)) + sum(
        len(key) + 32 + len(value) * (4 / 3 if isinstance(value, bytes) else 1)
        for key, value in answer.trailers
    )
    if size > TRAILERS_LIMIT_BYTES:
        yield f"trailers of {size:.0f} bytes"
    if TOKEN_PATTERN.search(f"{answer.message}{answer.trailers}"):
        yield "a token is repeated"


def _faults_of_fields(rpc: Rpc, answer: Answer) -> Iterator[str]:
    found = BadRequest()
    for detail in answer.status.details:
        detail.Unpack(found)
    if (answer.reason in ("INVALID_FIELD", "RETRY_MISMATCH")) != bool(found.field_violations):
        yield f"{answer.reason} with {len(found.field_violations)} violations"
    for violation in found.field_violations:
        if not _names_a_field(violation.field, rpc.request):
            yield f"there is no field {violation.field!r}"
        if not violation.description:
            yield f"nothing is said of {violation.field}"


def _names_a_field(path: str, message: Descriptor) -> bool:
    """Return whether a path such as `requests[2].ip_address` or `attributes[any key]` names a field."""
    if path in message.oneofs_by_name:
        return True
    name, _, rest = path.partition(".")
    found = _PART.fullmatch(name) or _PART.fullmatch(path)
    field = found and message.fields_by_name.get(found["name"])
    if not field or not found:
        return False
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        return (
            _PART.fullmatch(path) is not None
        )  # a key may contain any character, even dots and brackets
    if found["index"] and not (field.is_repeated and re.fullmatch(r"\[\d+\]", found["index"])):
        return False
    return not rest or (entry is not None and _names_a_field(rest, entry))
