"""The transmitter of the OpenID Shared Signals Framework 1.0: it serves the framework's HTTP over SessionEventService.

A receiver authenticates with its own API key, which the gateway passes on. The authority keeps streams and events, and
signs the events. So the gateway has neither a database nor a private key.

https://openid.net/specs/openid-sharedsignals-framework-1_0-final.html
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from session_authority.v1 import session_event_service_pb2 as pb
from session_authority.v1.session_event_service_pb2_grpc import SessionEventServiceStub
from session_authority_gateway import ssf_documents as documents
from session_authority_gateway.ssf_documents import Document, Given
from session_authority_server.domain.errors import AuthorityError
from session_authority_server.rpc.error_table import DETAILS_KEY, MalformedRequest, RequestTooLarge
from session_authority_server.rpc.methods import REQUEST_LIMIT_BYTES

CALL_SECONDS = 5.0
BODY_SECONDS = 5.0
LONG_POLL_SECONDS = 30.0
"""How long a poll waits for an event, unless the receiver asks for an immediate answer."""
LONG_POLLS_LIMIT = 500
"""How many polls may wait at a time. Further polls are answered at once."""
LOOK_SECONDS = 1.0
KEPT_SECONDS = 5.0
"""How long the gateway keeps the public data of the transmitter."""
PUBLIC_SECONDS = 300
"""How long receivers may keep the keys and the configuration."""
AUTHORIZATION_LIMIT_CHARACTERS = 512

_log = structlog.get_logger("session_authority.gateway")
_NO_STORE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_PUBLIC = {"cache-control": f"public, max-age={PUBLIC_SECONDS}"}

Endpoint = Callable[[Request], Awaitable[Response]]


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, error: str, description: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(description)
        self.status, self.error = status, error
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class _Transmitter:
    """The public data of the transmitter, and the time until which the gateway keeps it."""

    issuer: str
    jwks: str
    kept_until: float


class SharedSignals:
    """The endpoints of the framework."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        own_metadata: tuple[tuple[str, str], ...],
        is_serving: Callable[[], bool],
    ) -> None:
        """Call the authority.

        Args:
            channel: A channel that carries no API key.
            own_metadata: The gateway's own API key, which reads the public data of the transmitter.
            is_serving: Returns False once the gateway drains. Then no poll waits.
        """
        self._authority = SessionEventServiceStub(channel)
        self._own_metadata = own_metadata
        self._is_serving = is_serving
        self._transmitter: _Transmitter | None = None
        self._reading = asyncio.Lock()
        self._waiting = 0

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        return [
            _route(documents.CONFIGURATION_PATH, GET=self._configuration),
            _route(documents.JWKS_PATH, GET=self._jwks),
            _route(
                documents.STREAM_PATH,
                POST=self._create,
                GET=self._read,
                PATCH=self._update,
                PUT=self._replace,
                DELETE=self._delete,
            ),
            _route(documents.STATUS_PATH, GET=self._status, POST=self._set_status),
            _route(documents.VERIFICATION_PATH, POST=self._verify),
            _route(documents.POLL_PATH + "{stream_id}", POST=self._poll),
        ]

    async def _configuration(self, _request: Request) -> Response:
        transmitter = await self._known()
        return _answer(documents.configuration(transmitter.issuer), headers=_PUBLIC)

    async def _jwks(self, _request: Request) -> Response:
        transmitter = await self._known()
        return Response(transmitter.jwks, media_type="application/jwk-set+json", headers=_PUBLIC)

    async def _create(self, request: Request) -> Response:
        given = Given(await _body(request))
        answer = await _call(self._authority.CreateEventStream, given.create(), _key(request))
        return await self._stream(answer.stream, status=201)

    async def _read(self, request: Request) -> Response:
        stream_id = request.query_params.get("stream_id")
        if stream_id is not None:
            return await self._stream(await self._own(request, stream_id))
        found = await _call(
            self._authority.GetEventStream, pb.GetEventStreamRequest(), _key(request)
        )
        issuer = (await self._known()).issuer
        streams = [found.stream] if found.HasField("stream") else []
        return _answer([documents.stream_document(issuer, each) for each in streams])

    async def _update(self, request: Request) -> Response:
        return await self._change(request, replace=False)

    async def _replace(self, request: Request) -> Response:
        return await self._change(request, replace=True)

    async def _change(self, request: Request, *, replace: bool) -> Response:
        given = Given(await _body(request))
        stream = await self._own(request, given.stream_id())
        change = given.update((await self._known()).issuer, stream, replace=replace)
        changed = await _call(self._authority.UpdateEventStream, change, _key(request))
        return await self._stream(changed.stream)

    async def _delete(self, request: Request) -> Response:
        deletion = pb.DeleteEventStreamRequest(stream_id=_stream_id(request))
        await _call(self._authority.DeleteEventStream, deletion, _key(request))
        return Response(status_code=204, headers=_NO_STORE)

    async def _status(self, request: Request) -> Response:
        stream = await self._own(request, _stream_id(request))
        return _answer(documents.status_document(stream))

    async def _set_status(self, request: Request) -> Response:
        change = Given(await _body(request)).status()
        changed = await _call(self._authority.SetEventStreamStatus, change, _key(request))
        return _answer(documents.status_document(changed.stream))

    async def _verify(self, request: Request) -> Response:
        verification = Given(await _body(request)).verification()
        await _call(self._authority.VerifyEventStream, verification, _key(request))
        return Response(status_code=204, headers=_NO_STORE)

    async def _poll(self, request: Request) -> Response:
        # RFC 8936 has no use for an empty body, but it says as much as an empty object.
        given = Given(await _body(request) or b"{}")
        poll, waits = given.poll(request.path_params["stream_id"])
        key = _key(request)
        polled = await _call(self._authority.PollEventStream, poll, key)
        if waits and not polled.tokens and self._waiting < LONG_POLLS_LIMIT:
            # The acknowledgements have been taken.
            again = pb.PollEventStreamRequest(stream_id=poll.stream_id, limit=poll.limit)
            self._waiting += 1
            try:
                polled = await self._wait(request, again, key)
            finally:
                self._waiting -= 1
        return _answer(documents.polled_document(polled))

    async def _wait(
        self, request: Request, poll: pb.PollEventStreamRequest, key: tuple[tuple[str, str], ...]
    ) -> pb.PollEventStreamResponse:
        """Poll until there is an event, or until the receiver has waited long enough."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + LONG_POLL_SECONDS
        polled = pb.PollEventStreamResponse()
        while not polled.tokens and clock() < give_up and self._is_serving():
            await asyncio.sleep(LOOK_SECONDS)
            if await request.is_disconnected():
                break
            polled = await _call(self._authority.PollEventStream, poll, key)
        return polled

    async def _stream(self, stream: pb.EventStream, status: int = 200) -> Response:
        issuer = (await self._known()).issuer
        return _answer(documents.stream_document(issuer, stream), status=status)

    async def _own(self, request: Request, stream_id: str) -> pb.EventStream:
        """Return the receiver's stream with an id."""
        found = await _call(
            self._authority.GetEventStream, pb.GetEventStreamRequest(), _key(request)
        )
        if not found.HasField("stream") or found.stream.stream_id != stream_id:
            raise _Refused(404, "not_found", "your API key has no stream with this id")
        stream: pb.EventStream = found.stream
        return stream

    async def _known(self) -> _Transmitter:
        """Return the public data of the transmitter."""
        clock = asyncio.get_running_loop().time
        async with self._reading:
            if self._transmitter is None or self._transmitter.kept_until < clock():
                found = await _call(
                    self._authority.GetEventTransmitter,
                    pb.GetEventTransmitterRequest(),
                    self._own_metadata,
                )
                self._transmitter = _Transmitter(found.issuer, found.jwks, clock() + KEPT_SECONDS)
            return self._transmitter


def _route(path: str, **endpoints: Endpoint) -> Route:
    """Return the route of an endpoint with a function for each method."""

    async def endpoint(request: Request) -> Response:
        # Starlette also lets HEAD through where there is GET.
        serve = endpoints["GET" if request.method == "HEAD" else request.method]
        try:
            return await serve(request)
        except _Refused as error:
            refused = error
        except MalformedRequest as error:
            refused = _Refused(400, "invalid_request", str(error))
        except RequestTooLarge as error:
            refused = _Refused(413, "invalid_request", str(error))
        except AuthorityError as error:
            refused = _Refused(400, "invalid_request", str(error))
        except ClientDisconnect:
            return Response(status_code=400)
        body = {"err": refused.error, "description": str(refused)}
        return _answer(body, status=refused.status, headers=refused.headers)

    return Route(path, endpoint, methods=list(endpoints))


def _answer(
    document: Document | list[Document], *, status: int = 200, headers: Mapping[str, str] = {}
) -> Response:
    return Response(
        json.dumps(document),
        status,
        media_type="application/json",
        headers={**_NO_STORE, **headers},
    )


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > REQUEST_LIMIT_BYTES:
                    raise RequestTooLarge(REQUEST_LIMIT_BYTES)
                body += part
    except TimeoutError:
        raise _Refused(408, "invalid_request", "the body did not arrive in time") from None
    return bytes(body)


def _stream_id(request: Request) -> str:
    stream_id = request.query_params.get("stream_id")
    if not stream_id:
        raise _Refused(400, "invalid_request", "give the query parameter stream_id")
    return stream_id


def _key(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the metadata with the receiver's API key, exactly as it came."""
    values = request.headers.getlist("authorization")
    if len(values) != 1:
        raise _unauthenticated("send your API key once, as Authorization: Bearer sak_...")
    [value] = values
    if not (
        value.isascii() and value.isprintable() and len(value) <= AUTHORIZATION_LIMIT_CHARACTERS
    ):
        raise _unauthenticated("the header Authorization has no API key")
    return (("authorization", value),)


def _unauthenticated(problem: str) -> _Refused:
    return _Refused(401, "authentication_failed", problem, {"www-authenticate": "Bearer"})


async def _call(method: Any, request: Message, metadata: tuple[tuple[str, str], ...]) -> Any:
    """Call the authority.

    Raises:
        _Refused: If the authority refused the call, or did not answer.
    """
    try:
        return await method(request, timeout=CALL_SECONDS, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        _refuse(error)


def _refuse(error: grpc.aio.AioRpcError) -> NoReturn:
    """Turn an error of the authority into an answer. The text of an error that gRPC made is not passed on."""
    info, retry = _details(error)
    code, problem = error.code(), error.details() or ""
    if info is None:
        if code is not grpc.StatusCode.UNIMPLEMENTED:
            _log.warning("the authority did not answer a call", code=code.name)
        raise _unavailable()
    match info.reason:
        case "EVENT_STREAMS_OFF" | "EVENT_STREAM_NOT_FOUND":
            raise _Refused(404, "not_found", problem) from None
        case "EVENT_STREAM_EXISTS":
            raise _Refused(409, "already_exists", problem) from None
        case "RECEIVER_LIMIT_REACHED":
            raise _Refused(403, "access_denied", problem) from None
        case "VERIFICATION_TOO_SOON":
            seconds = max(1, -(-retry.retry_delay.ToMilliseconds() // 1000))
            headers = {"retry-after": str(seconds)}
            raise _Refused(429, "too_many_requests", problem, headers) from None
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            raise _Refused(400, "invalid_request", problem) from None
        case grpc.StatusCode.UNAUTHENTICATED:
            raise _unauthenticated(problem) from None
        case grpc.StatusCode.PERMISSION_DENIED:
            headers = {"www-authenticate": 'Bearer error="insufficient_scope"'}
            raise _Refused(403, "access_denied", problem, headers) from None
    raise _unavailable() from None


def _unavailable() -> _Refused:
    return _Refused(
        503,
        "temporarily_unavailable",
        "the authority can't answer at present; try again",
        {"retry-after": "5"},
    )


def _details(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo | None, RetryInfo]:
    info, retry, found = ErrorInfo(), RetryInfo(), False
    for name, value in error.trailing_metadata() or ():
        if name == DETAILS_KEY and isinstance(value, bytes):
            for each in Status.FromString(value).details:
                found |= each.Unpack(info)
                each.Unpack(retry)
    return (info if found else None), retry
