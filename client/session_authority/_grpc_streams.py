"""Streams of gRPC services that end with the session of their caller. `grpc.py` uses this module.

A stream is a call that sends or receives more than one message. Its handler is wrapped, so that the end of the session
ends the call, even while the handler waits for something.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, TypeAlias

import grpc

from session_authority.aio import AsyncSessionClient
from session_authority.errors import SessionAuthorityError, Unavailable
from session_authority.near_cache.endings import EndSubscription
from session_authority.session_token import SessionToken
from session_authority.sync import SessionClient

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Trailing: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Refusal(NamedTuple):
    """The status of a call that is refused."""

    code: grpc.StatusCode
    text: str
    trailing_metadata: Trailing = ()


RefusalOf: TypeAlias = Callable[[SessionAuthorityError], Refusal]


def is_stream(handler: Handler) -> bool:
    """Say whether a handler sends or receives more than one message."""
    return bool(handler.request_streaming or handler.response_streaming)


def behavior_of(handler: Handler) -> Any:
    """Return the function of a handler."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def with_behavior(
    handler: Handler, behavior: Any, *, response_streaming: bool | None = None
) -> Handler:
    """Return a copy of a handler with another function."""
    if response_streaming is None:
        response_streaming = handler.response_streaming
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, response_streaming]
    copy: Handler = make(behavior, handler.request_deserializer, handler.response_serializer)
    return copy


class _AsyncCall:
    """One call of an asyncio service."""

    def __init__(self, client: AsyncSessionClient, token: SessionToken | None) -> None:
        self.error: SessionAuthorityError | None = None
        self._client = client
        self._token = token
        self._task: asyncio.Task[Any] | None = None
        self._subscription: EndSubscription | None = None

    async def watch(self) -> None:
        """Cancel the running task when the session ends.

        Raises:
            SessionAuthorityError: The session has just ended, or cannot be confirmed.
        """
        self._task = asyncio.current_task()
        self._subscription = await self._client.on_end(self._token, self._end)

    def uncancel(self) -> None:
        """Take back the cancellation, so that the task can send the status."""
        assert self._task is not None
        self._task.uncancel()

    def leave(self) -> None:
        """Stop watching, because the handler has returned."""
        self._task = None
        if self._subscription is not None:
            self._subscription.cancel()

    async def confirm(self) -> bool:
        """Say whether the session may still be used."""
        assert self._subscription is not None
        if isinstance(self._subscription.ended, Unavailable):
            # The process may have stood still. The answer to this question confirms the session.
            with suppress(SessionAuthorityError):
                await self._client.validate(self._token, passive=True)
        self.error = self.error or self._subscription.ended
        return self.error is None

    def _end(self, error: SessionAuthorityError) -> None:
        if self._task is not None:
            self.error = error
            self._task.cancel()


def end_with_session_async(
    handler: Handler, client: AsyncSessionClient, token: SessionToken | None, refusal_of: RefusalOf
) -> Handler:
    """Wrap the handler of a stream of a `grpc.aio` service.

    The handler is cancelled when the session ends. A handler that is no coroutine function is returned as it is: gRPC
    runs it in a thread, where `current_session` does not work either.
    """
    behavior = behavior_of(handler)
    if not (inspect.iscoroutinefunction(behavior) or inspect.isasyncgenfunction(behavior)):
        return handler

    async def watched(request: Any, context: Any) -> Any:
        call = _AsyncCall(client, token)
        try:
            await call.watch()
        except SessionAuthorityError as error:
            await context.abort(*refusal_of(error))
        if handler.request_streaming:
            request = _confirmed(request, call)
        response = None
        try:
            result = behavior(request, context)
            if inspect.isasyncgen(result):
                await _write_all(result, context, call)
            else:
                response = await result
        except asyncio.CancelledError:
            if call.error is None:  # the client cancelled
                raise
            call.uncancel()
        finally:
            call.leave()
        if call.error is not None:
            await context.abort(*refusal_of(call.error))
        return response

    return with_behavior(handler, watched)


def end_with_session(
    handler: Handler,
    client: SessionClient,
    token: SessionToken | None,
    admit: Callable[[grpc.ServicerContext], None],
    refusal_of: RefusalOf,
) -> Handler:
    """Wrap the handler of a stream of a service with threads.

    A thread cannot be cancelled. When the session ends, another thread sends the status at once. For the
    handler, this is like a cancellation by the client: its requests end, and `context.is_active()` is false. The
    callbacks of `context.add_callback` run. gRPC ignores what the handler returns later.

    Args:
        handler: The handler.
        client: The client of the authority.
        token: The token of the call.
        admit: Admits the call, or aborts it. It runs in the thread of the call.
        refusal_of: Returns the status for an error.
    """
    behavior = behavior_of(handler)

    def watched(
        request: Any, context: grpc.ServicerContext, respond: Callable[[Any], None]
    ) -> None:
        admit(context)
        call = _ThreadedCall(context, respond, refusal_of)
        try:
            subscription = client.on_end(token, call.end)
        except SessionAuthorityError as error:
            call.end(error)
            return
        try:
            if handler.request_streaming:
                request = _confirmed_in_thread(request, call, client, token, subscription)
            result = behavior(request, context)
            responses = result if handler.response_streaming else iter((result,))
            for response in _confirmed_in_thread(responses, call, client, token, subscription):
                respond(response)
        except Exception:
            if call.finish():  # otherwise, the status has been sent
                raise
        else:
            if call.finish():
                respond(None)
        finally:
            subscription.cancel()

    # gRPC then passes the function `respond`, which any thread may call. `respond(None)` sends the status.
    watched.experimental_non_blocking = True  # type: ignore[attr-defined]
    # A single response is sent as a stream of one message, which looks the same to the client.
    return with_behavior(handler, watched, response_streaming=True)


class _ThreadedCall:
    """One call of a service with threads. Its status is sent once."""

    def __init__(
        self,
        context: grpc.ServicerContext,
        respond: Callable[[Any], None],
        refusal_of: RefusalOf,
    ) -> None:
        self._context = context
        self._respond = respond
        self._refusal_of = refusal_of
        self._lock = threading.Lock()
        self.is_over = False

    def finish(self) -> bool:
        """Say whether the caller is the first to end the call, and must send the status."""
        with self._lock:
            is_first, self.is_over = not self.is_over, True
            return is_first

    def end(self, error: SessionAuthorityError) -> None:
        """Send the status for an error, unless the call is over."""
        if not self.finish():
            return
        refusal = self._refusal_of(error)
        self._context.set_trailing_metadata(refusal.trailing_metadata)
        self._context.set_code(refusal.code)
        self._context.set_details(refusal.text)
        self._respond(None)


def _confirmed_in_thread(
    messages: Iterator[Any],
    call: _ThreadedCall,
    client: SessionClient,
    token: SessionToken | None,
    subscription: EndSubscription,
) -> Iterator[Any]:
    """Pass messages on for as long as the session may be used."""
    for message in messages:
        if isinstance(subscription.ended, Unavailable):
            # The process may have stood still. The answer to this question confirms the session.
            with suppress(SessionAuthorityError):
                client.validate(token, passive=True)
        if (error := subscription.ended) is not None:
            call.end(error)
        if call.is_over:
            return
        yield message


async def _write_all(responses: AsyncGenerator[Any, Any], context: Any, call: _AsyncCall) -> None:
    async with aclosing(responses):
        async for response in responses:
            if not await call.confirm():
                return
            await context.write(response)


async def _confirmed(messages: AsyncIterator[Any], call: _AsyncCall) -> AsyncIterator[Any]:
    """Pass messages on for as long as the session may be used."""
    async for message in messages:
        if not await call.confirm():
            return
        yield message
