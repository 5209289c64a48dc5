"""Refused calls: how they are counted and logged, and the ids that find them again in the log."""

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import grpc
import structlog

from session_authority_server.domain import api_key
from session_authority_server.domain.errors import AuthorityError
from session_authority_server.observability.metrics import RPC_ERRORS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.authentication import AUTHORIZATION, Metadata
from session_authority_server.rpc.error_table import Answer, UnexpectedFailure

REQUEST_ID = "x-request-id"
REQUEST_ID_LIMIT_CHARACTERS = 128
_REQUEST_ID = re.compile(rf"[\w.:/+=@-]{{1,{REQUEST_ID_LIMIT_CHARACTERS}}}", re.ASCII)
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(
    r"(?!ff)[\da-f]{2}-(?!0{32})([\da-f]{32})-(?!0{16})[\da-f]{16}-[\da-f]{2}(?:-.*)?", re.ASCII
)

# The metadata of a call, its peer and its deadline, or the context of gRPC that knows them. They are read only if the
# call is refused.
Origin: TypeAlias = "tuple[Metadata, str, float | None] | grpc.aio.ServicerContext[Any, Any]"
UNKNOWN_ORIGIN: Origin = (None, "", None)

_log = structlog.get_logger("session_authority.rpc")


def refusal(method: str, error: Exception, origin: Origin, key_id: str = "") -> Answer:
    """Count and log an error. Return its status, with the request id.

    Args:
        method: The name of the RPC.
        error: The reason. An error without a status of its own is logged in full, and the caller learns nothing of it.
        origin: Where the call comes from.
        key_id: The id of the caller's API key. By default, the id that the call claims.
    """
    metadata, peer = _read(origin)
    failure = _failure_behind(error)
    answer = error_table.answer(error if isinstance(error, AuthorityError) else UnexpectedFailure())
    request_id = _request_id(metadata)
    fields: dict[str, object] = {
        "method": method,
        "code": answer.code.name,
        "reason": answer.reason,
        "key_id": key_id or _claimed_key_id(metadata),
        "peer": peer,
        "request_id": request_id,
    }
    if found := _TRACEPARENT.fullmatch(metadata.get("traceparent", "")):
        fields["trace_id"] = found[1]
    RPC_ERRORS.inc(method, answer.code.name, answer.reason)
    if failure is None:
        _log.info("call refused", **fields)
    else:
        _log.error("unexpected failure", exc_info=failure, **fields)
    return answer.with_metadata((REQUEST_ID, request_id))


def _failure_behind(error: Exception) -> BaseException | None:
    """Return the failure that the log must show in full; None if there is none, or if it is logged already."""
    if isinstance(error, UnexpectedFailure):
        return error.__cause__
    return None if isinstance(error, AuthorityError) else error


def _read(origin: Origin) -> tuple[Mapping[str, str], str]:
    given: Iterable[tuple[str, str | bytes]]
    if isinstance(origin, tuple):
        given, peer = origin[0] or (), origin[1]
    else:
        given, peer = origin.invocation_metadata() or (), origin.peer()
    return {name: value for name, value in given if isinstance(value, str)}, peer


def _request_id(metadata: Mapping[str, str]) -> str:
    """Return the caller's request id, or a new one if the caller sent none that is safe to log."""
    given = metadata.get(REQUEST_ID, "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _claimed_key_id(metadata: Mapping[str, str]) -> str:
    """Return the id in the API key of a call, which may be invalid; empty if the call carries no key."""
    token = api_key.parse(metadata.get(AUTHORIZATION, "").partition(" ")[2])
    return "" if token is None else str(token.id)
