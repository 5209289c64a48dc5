"""Sessions for gRPC services: the user on whose behalf a method is called.

    server = grpc.aio.server(interceptors=[AsyncSessionInterceptor(AsyncSessionClient.from_env())])

    async def GetCart(self, request, context):
        user_id = current_session().user_id
        prices = await other_stub.GetPrices(..., metadata=token_metadata())

The user's token travels from service to service as `x-session-token` metadata.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import grpc
from google.rpc import error_details_pb2, status_pb2

from session_authority._grpc_streams import (
    Handler,
    Refusal,
    behavior_of,
    end_with_session,
    end_with_session_async,
    is_stream,
    with_behavior,
)
from session_authority.aio import AsyncSessionClient
from session_authority.errors import (
    ClientClosed,
    SessionAuthorityError,
    SessionNotLive,
    Unavailable,
)
from session_authority.session import Rejection, RejectionReason, Session
from session_authority.session_token import SESSION_TOKEN_METADATA_KEY, SessionToken, Token
from session_authority.sync import SessionClient

_FoundHandler: TypeAlias = "Handler | None"
_Details: TypeAlias = grpc.HandlerCallDetails

_log = logging.getLogger("session_authority.grpc")


class _Presented(NamedTuple):
    session: Session | None
    token: SessionToken | None


_current: ContextVar[_Presented | None] = ContextVar("session_authority_current", default=None)


def current_session() -> Session:
    """Return the session of the current call.

    Raises:
        SessionNotLive: The method is public, so the call has no session.
        LookupError: The current call did not go through an interceptor of this module.
    """
    session = _presented().session
    if session is None:
        raise SessionNotLive("a public method", rejection=Rejection(RejectionReason.NOT_FOUND))
    return session


def token_metadata(token: Token = None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that passes a user's token on to the next service.

    Args:
        token: The token. The default is the token of the current call.

    Returns:
        The metadata. Empty if the token is empty, or if the current call has none because its method is public.

    Raises:
        LookupError: No token is given, and the current call did not go through an interceptor of this module.
    """
    passed_on = _presented().token if token is None else token
    text = passed_on.reveal() if isinstance(passed_on, SessionToken) else passed_on
    if not text:
        return ()
    return ((SESSION_TOKEN_METADATA_KEY, text),)


class _PublicMethods:
    """The methods that need no session."""

    def __init__(self, public_methods: Iterable[str]) -> None:
        if isinstance(public_methods, str):
            raise TypeError("public_methods must be a sequence of names, not a str")
        names = list(public_methods)
        for name in names:
            if not name.startswith("/") or name.count("/") != 2 or name.endswith("/"):
                raise ValueError(
                    f'a method name has the form "/package.Service/Method" or "/package.Service/*": {name!r}'
                )
        self._names = frozenset(names)

    def includes(self, method: str) -> bool:
        return method in self._names or method.rpartition("/")[0] + "/*" in self._names


class AsyncSessionInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls to a `grpc.aio` service only with the token of a live session.

    A call without a live session fails with UNAUTHENTICATED. During an outage of the authority, calls fail with
    UNAVAILABLE. If the client has a near cache, a stream ends with the same statuses when its session ends.
    """

    def __init__(self, client: AsyncSessionClient, *, public_methods: Iterable[str] = ()) -> None:
        """Check the names of the public methods.

        Args:
            client: Validates the tokens.
            public_methods: The methods that need no session, for example "/grpc.health.v1.Health/Check", or
                "/grpc.health.v1.Health/*" for all methods of a service.

        Raises:
            ValueError: A name of `public_methods` has neither of these forms.
        """
        self._client = client
        self._public = _PublicMethods(public_methods)

    async def intercept_service(
        self,
        continuation: Callable[[_Details], Awaitable[_FoundHandler]],
        handler_call_details: _Details,
    ) -> _FoundHandler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        token = _token_of(handler_call_details)
        # The handler sees this variable, because the same task runs the interceptor and the handler.
        if self._public.includes(handler_call_details.method):
            _current.set(_Presented(None, token))
            return handler
        try:
            session = await self._client.require(token)
        except SessionAuthorityError as error:
            return _aborting_handler(_refusal_of(error))
        _current.set(_Presented(session, token))
        if is_stream(handler) and self._client.near_cache_statistics is not None:
            return end_with_session_async(handler, self._client, token, _refusal_of)
        return handler


class SessionInterceptor(grpc.ServerInterceptor):
    """Admits calls to a `grpc` service only with the token of a live session.

    Otherwise it behaves as `AsyncSessionInterceptor` does.
    """

    def __init__(self, client: SessionClient, *, public_methods: Iterable[str] = ()) -> None:
        """Check the names of the public methods. The arguments are those of `AsyncSessionInterceptor`.

        Raises:
            ValueError: A name of `public_methods` has the wrong form.
        """
        self._client = client
        self._public = _PublicMethods(public_methods)

    def intercept_service(
        self,
        continuation: Callable[[_Details], _FoundHandler],
        handler_call_details: _Details,
    ) -> _FoundHandler:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        token = _token_of(handler_call_details)
        is_public = self._public.includes(handler_call_details.method)

        def admit(context: grpc.ServicerContext) -> None:
            try:
                session = None if is_public else self._client.require(token)
            except SessionAuthorityError as error:
                refusal = _refusal_of(error)
            else:
                _current.set(_Presented(session, token))
                return
            context.set_trailing_metadata(refusal.trailing_metadata)
            context.abort(refusal.code, refusal.text)

        if is_public or not is_stream(handler) or self._client.near_cache_statistics is None:
            return _admit_first(handler, admit)
        return end_with_session(handler, self._client, token, admit, _refusal_of)


def _admit_first(handler: Handler, admit: Callable[[grpc.ServicerContext], None]) -> Handler:
    """Wrap a handler, so that its thread runs `admit` first.

    gRPC runs interceptors in the single thread that accepts calls, which must not wait for the authority. `admit`
    leaves its result in a context variable. No other call sees it, because each call has a context of its own.
    """
    behavior = behavior_of(handler)

    def admitted(request: Any, context: grpc.ServicerContext) -> Any:
        admit(context)
        return behavior(request, context)

    return with_behavior(handler, admitted)


def _presented() -> _Presented:
    presented = _current.get()
    if presented is None:
        raise LookupError("the current call did not pass a SessionInterceptor")
    return presented


def _token_of(details: _Details) -> SessionToken | None:
    for key, value in details.invocation_metadata or ():
        if key == SESSION_TOKEN_METADATA_KEY and isinstance(value, str) and value:
            return SessionToken(value)
    return None


def _aborting_handler(refusal: Refusal) -> Handler:
    async def refuse(_request: object, context: Any) -> None:
        await context.abort(*refusal)

    # A handler of streams answers without waiting for the request.
    behavior: Any = refuse
    return grpc.stream_stream_rpc_method_handler(behavior)


def _refusal_of(error: SessionAuthorityError) -> Refusal:
    match error:
        case SessionNotLive():
            return _unauthenticated("No live session: let the user sign in.")
        case Unavailable() | ClientClosed():
            text = "The session can't be validated at the moment: try again later."
            return Refusal(grpc.StatusCode.UNAVAILABLE, text)
        case _:
            # The caller must not see a fault between this service and the authority.
            _log.error("a session can't be validated: %s", error)
            return Refusal(grpc.StatusCode.INTERNAL, "The session can't be validated.")


def _unauthenticated(text: str) -> Refusal:
    # The same status details as the authority's own.
    status = status_pb2.Status(code=grpc.StatusCode.UNAUTHENTICATED.value[0], message=text)
    reason = error_details_pb2.ErrorInfo(reason="SESSION_NOT_LIVE", domain="session-authority")
    status.details.add().Pack(reason)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    return Refusal(grpc.StatusCode.UNAUTHENTICATED, text, trailing)
