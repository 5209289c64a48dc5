"""The JSON API: every unary RPC as `POST /session_authority.v1.<Service>/<Method>`, for programs without gRPC.

It speaks the unary part of the Connect protocol with JSON: https://connectrpc.com/docs/protocol
A call carries its caller's own API key. The gateway passes the key on and adds none.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.types import Receive, Scope, Send

from session_authority_gateway.json_answer import CONTENT_TYPE, HttpAnswer, failure, success
from session_authority_gateway.json_request import read_json
from session_authority_server.domain.errors import (
    ApiKeyInvalid,
    InvalidRequest,
    Violation,
)
from session_authority_server.observability.metrics import RPC_DURATION
from session_authority_server.rpc.dispatcher import DEADLINE_SECONDS, LONGEST_DEADLINE_SECONDS
from session_authority_server.rpc.error_table import (
    DETAILS_KEY,
    DeadlineExceeded,
    RequestTooLarge,
    ServerOverloaded,
)
from session_authority_server.rpc.methods import METHODS, SERVICES, Method
from session_authority_server.rpc.refused_calls import REQUEST_ID, refusal

OPENAPI_PATH = "/openapi.json"

CALLS_LIMIT = 4_000
"""How many calls may be open. Further calls are refused."""
CALLS_AT_ONCE_LIMIT = 150
"""How many calls the authority answers at once. Further calls wait until their deadline."""
BODIES_LIMIT_BYTES = 64 * 1024 * 1024
"""How much memory the bodies of all open calls may take."""
BODY_SECONDS = 5.0
"""How long a body may take to arrive."""

# The authority reads these. A value is passed on if it is printable ASCII of at most this length.
_PASSED_ON = frozenset(("authorization", REQUEST_ID, "traceparent", "tracestate"))
_PASSED_ON_CHARACTERS = 512
_TIMEOUT = re.compile(r"[0-9]{1,10}")
_JSON_TYPE = re.compile(r'application/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
# Larger bodies are converted in a thread, so that other requests need not wait.
_THREAD_BYTES = 16 * 1024
_SAFE = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
# gRPC or a proxy sends these codes without details if no server has answered.
_OUTAGE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)

_log = structlog.get_logger("session_authority.gateway")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Rpc:
    """A unary RPC: its rule, its messages and the call on the channel."""

    method: Method
    request: type[Message]
    response: type[Message]
    call: Callable[..., Any]


class _CallerHasGone(Exception):
    """The caller closed the connection before its request was complete."""


class JsonApi:
    """The ASGI application of the JSON API."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Call the authority through a channel that carries no API key."""
        self._rpcs = _rpcs(channel)
        self._places = asyncio.Semaphore(CALLS_AT_ONCE_LIMIT)
        self._calls = 0
        self._bodies_bytes = 0
        self._openapi = files(__package__).joinpath("openapi.json").read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            answer = await self._answer(scope, receive)
        except _CallerHasGone:
            return
        headers = (
            ("content-type", CONTENT_TYPE),
            ("content-length", str(len(answer.body))),
            *_SAFE,
            *answer.headers,
        )
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> HttpAnswer:
        # As received, so that no other spelling of a path passes a proxy's rules for it.
        path, verb = scope["raw_path"].decode("latin-1"), scope["method"]
        if path == OPENAPI_PATH and verb in ("GET", "HEAD"):
            return HttpAnswer(200, (), self._openapi)
        if path not in METHODS and path != OPENAPI_PATH:
            problem = f"there is no such method; GET {OPENAPI_PATH} lists them"
            return failure(grpc.StatusCode.UNIMPLEMENTED, problem, status=404)
        if verb != "POST" or path == OPENAPI_PATH:
            allowed = "GET, HEAD" if path == OPENAPI_PATH else "POST"
            return failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"use {allowed}",
                status=405,
                headers=[("allow", allowed)],
            )
        headers = _headers(scope["headers"])
        rpc = self._rpcs.get(path)
        if rpc is None:
            problem = f"{METHODS[path].name} is a stream, which the JSON API lacks; call it by gRPC"
            return failure(grpc.StatusCode.UNIMPLEMENTED, problem)
        return _wrong_form(headers) or await self._take(rpc, headers, scope, receive)

    async def _take(
        self, rpc: _Rpc, headers: Mapping[str, str], scope: Scope, receive: Receive
    ) -> HttpAnswer:
        """Make a call. Return its response, or its error."""
        begun, code = time.perf_counter(), "OK"
        body = bytearray()
        self._calls += 1
        try:
            return await self._call(rpc, headers, receive, body)
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            return _failed(rpc, error)
        except Exception as error:
            if isinstance(error, _CallerHasGone):
                raise
            origin = (tuple(headers.items()), _peer(scope), None)
            refused = refusal(rpc.method.name, error, origin)
            code = refused.code.name
            return _status(refused.code, refused.message, refused.trailing_metadata)
        finally:
            self._calls -= 1
            self._bodies_bytes -= len(body)
            RPC_DURATION.observe((rpc.method.name, code), time.perf_counter() - begun)

    async def _call(
        self, rpc: _Rpc, headers: Mapping[str, str], receive: Receive, body: bytearray
    ) -> HttpAnswer:
        if self._calls > CALLS_LIMIT:
            raise ServerOverloaded
        clock = asyncio.get_running_loop().time
        give_up = clock() + _seconds(headers)
        metadata = _metadata(headers)
        try:
            async with asyncio.timeout_at(min(give_up, clock() + BODY_SECONDS)):
                await self._read(receive, body, rpc.method.rule.request_limit_bytes)
            async with asyncio.timeout_at(give_up):
                request = await _converted(body, partial(_request, rpc, bytes(body)))
                async with self._places:
                    answered = await rpc.call(
                        request, timeout=max(0, give_up - clock()), metadata=metadata
                    )
                return await _converted(answered, partial(_response, rpc, answered))
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _read(self, receive: Receive, body: bytearray, limit_bytes: int) -> None:
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise _CallerHasGone
            part = event.get("body", b"")
            if len(body) + len(part) > limit_bytes:
                raise RequestTooLarge(limit_bytes)
            if self._bodies_bytes + len(part) > BODIES_LIMIT_BYTES:
                raise ServerOverloaded
            body += part
            self._bodies_bytes += len(part)
            if not event.get("more_body", False):
                return


def _rpcs(channel: grpc.aio.Channel) -> Mapping[str, _Rpc]:
    rpcs = {}
    for service in SERVICES:
        for each in service.methods:
            path = f"/{service.full_name}/{each.name}"
            if not METHODS[path].streams:
                kinds = GetMessageClass(each.input_type), GetMessageClass(each.output_type)
                rpcs[path] = _Rpc(METHODS[path], *kinds, channel.unary_unary(path))
    return rpcs


def _headers(given: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Return the headers by their names in lower case. Values of a repeated header are joined, as in RFC 9110."""
    headers: dict[str, str] = {}
    for name, value in given:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _wrong_form(headers: Mapping[str, str]) -> HttpAnswer | None:
    """Return the error for a request in another form than uncompressed JSON."""
    if not _JSON_TYPE.fullmatch(headers.get("content-type", "").strip()):
        return failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"send the request as JSON, with the header Content-Type: {CONTENT_TYPE}",
            status=415,
            headers=[("accept-post", CONTENT_TYPE)],
        )
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return failure(
            grpc.StatusCode.UNIMPLEMENTED,
            "send the request uncompressed, without the header Content-Encoding",
            status=415,
            headers=[("accept-encoding", "identity")],
        )
    return None


def _seconds(headers: Mapping[str, str]) -> float:
    """Return how long a call may take.

    Raises:
        InvalidRequest: If a header of the protocol has a value that is not understood.
    """
    if headers.get("connect-protocol-version", "1") != "1":
        raise InvalidRequest([Violation("Connect-Protocol-Version", "must be 1, or absent")])
    given = headers.get("connect-timeout-ms")
    if given is None:
        return DEADLINE_SECONDS
    if not _TIMEOUT.fullmatch(given):
        problem = "must be a number of milliseconds with at most 10 digits"
        raise InvalidRequest([Violation("Connect-Timeout-Ms", problem)])
    return min(int(given) / 1000, LONGEST_DEADLINE_SECONDS)


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what the authority reads of a caller: its API key, its request id and its trace.

    Raises:
        ApiKeyInvalid: If gRPC can't send the header with the API key.
    """
    metadata = []
    for name in _PASSED_ON & headers.keys():
        value = headers[name]
        if value.isascii() and value.isprintable() and len(value) <= _PASSED_ON_CHARACTERS:
            metadata.append((name, value))
        elif name == "authorization":
            raise ApiKeyInvalid
    return tuple(metadata)


async def _converted(content: bytes | bytearray, convert: Callable[[], _Result]) -> _Result:
    return convert() if len(content) <= _THREAD_BYTES else await asyncio.to_thread(convert)


def _request(rpc: _Rpc, body: bytes) -> bytes:
    return read_json(rpc.request, body).SerializeToString()


def _response(rpc: _Rpc, answered: bytes) -> HttpAnswer:
    return success(rpc.response.FromString(answered))


def _failed(rpc: _Rpc, error: grpc.aio.AioRpcError) -> HttpAnswer:
    """Return the error of the authority. An error that gRPC made has no details, and its text may quote a secret."""
    code = error.code()
    if any(name == DETAILS_KEY for name, _ in error.trailing_metadata() or ()):
        return _status(code, error.details() or "", error.trailing_metadata())
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return failure(code, f"the authority does not have the method {rpc.method.name}")
    _log.warning("the authority did not answer a call", method=rpc.method.name, code=code.name)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return failure(code, "the authority did not answer in time; try again")
    if code in _OUTAGE:
        problem = "the authority can't be reached, or is overloaded; try again"
        return failure(grpc.StatusCode.UNAVAILABLE, problem)
    return failure(grpc.StatusCode.INTERNAL, "the call failed; the gateway's log says more")


def _status(
    code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]]
) -> HttpAnswer:
    found: Mapping[str, Any] = dict(metadata)
    headers = [(REQUEST_ID, found[REQUEST_ID])] if REQUEST_ID in found else []
    return failure(code, message, found.get(DETAILS_KEY), headers=headers)


def _peer(scope: Scope) -> str:
    host, port = scope.get("client") or ("", 0)
    return f"{host}:{port}"
