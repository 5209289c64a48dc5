"""Takes unary calls from the gRPC server (`rpc/host`) and passes them to their use-cases.

It authenticates, limits and queues the calls, and maps errors to gRPC statuses.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
from google.protobuf.message import DecodeError, Message

from session_authority_server.domain.errors import AuthorityError, SessionNotLive
from session_authority_server.observability.metrics import RPC_DURATION, RPC_ERRORS
from session_authority_server.rpc import error_table
from session_authority_server.rpc.authentication import (
    Authenticate,
    Caller,
    Metadata,
    RejectedTokens,
    current_caller,
)
from session_authority_server.rpc.call_queue import Call, CallQueue
from session_authority_server.rpc.error_table import (
    Answer,
    DeadlineExceeded,
    MalformedRequest,
    RequestTooLarge,
    ServerOverloaded,
    UnexpectedFailure,
)
from session_authority_server.rpc.methods import METHODS, Method
from session_authority_server.rpc.refused_calls import Origin, refusal
from session_authority_server.rpc.session_service import SessionService

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing

DEADLINE_SECONDS = 5.0
LONGEST_DEADLINE_SECONDS = 60.0
SLOW_SECONDS = 1.0

# Answers a request with a message, or with the bytes of one.
Handler: TypeAlias = "Callable[[Any], Awaitable[Message | bytes]]"

# Built once, because an overload needs thousands of these a second.
_OVERLOADED = error_table.answer(ServerOverloaded())

_log = structlog.get_logger("session_authority.rpc")


class Dispatcher:
    """Authenticates calls, limits their size and time, queues them, and maps errors to statuses.

    Attributes:
        unary: The unary RPCs that are served.
        tracing: Creates the calls, if the server exports traces.
    """

    def __init__(
        self,
        sessions: SessionService,
        others: Sequence[object],
        authenticate: Authenticate,
        queue: CallQueue,
        rejected: RejectedTokens,
        tracing: "Tracing | None" = None,
        check_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve the unary RPCs of some services.

        Args:
            sessions: `SessionService`.
            others: Further services. Each object has a coroutine for each of its RPCs.
            authenticate: Returns the caller, or raises the reason for a refusal.
            queue: Limits how many calls run at once.
            rejected: Limits answers about unknown tokens.
            tracing: Creates calls with spans, if the server exports traces.
            check_answer: Called before each answer. Raises if the store's contents must not be used.
        """
        self.tracing = tracing
        self._authenticate = authenticate
        self._sessions = sessions
        self._queue = queue
        self._rejected = rejected
        self._check_answer = check_answer
        self._handlers = _handlers((sessions, *others))
        self.unary: Sequence[Method] = [
            each for each in METHODS.values() if each.batched or each.name in self._handlers
        ]
        queue.serve(self._run_one, self._run_validations, self._refuse)

    def admit(self, path: str, metadata: Metadata) -> Caller:
        """Return the caller of an RPC.

        Raises:
            AuthorityError: If the caller may not call the RPC. The host then answers with `turn_away`.
        """
        return self._authenticate(path, metadata)

    def turn_away(
        self, path: str, metadata: Metadata, error: AuthorityError, origin: Origin
    ) -> Answer:
        """Return the status for a call that was not admitted."""
        answer = refusal(path.rpartition("/")[2], error, origin)
        if self.tracing is not None:
            self.tracing.refused(path, metadata, answer)
        return answer

    def take(self, call: Call, payload: bytes) -> None:
        """Check and queue a call. It will be answered, unless it is cancelled."""
        method = call.method
        if len(payload) > method.rule.request_limit_bytes:
            self._fail(call, RequestTooLarge(method.rule.request_limit_bytes))
            return
        try:
            call.request = method.parse(payload)
        except DecodeError:
            self._fail(call, MalformedRequest(f"{method.name}Request"))
            return
        self._queue.put(call)

    async def _run_one(self, call: Call) -> None:
        current_caller.set(call.caller)
        try:
            answered = await _limit_time(
                self._handlers[call.method.name](call.request), call.seconds_left
            )
            self._check_answer()
        except SessionNotLive as error:
            self._fail(call, self._count_unknown_token(call.caller, error))
        except Exception as error:  # noqa: BLE001 - any failure becomes a documented error
            self._fail(call, error)
        else:
            _succeed(
                call, answered if isinstance(answered, bytes) else answered.SerializeToString()
            )

    async def _run_validations(self, calls: Sequence[Call]) -> None:
        try:
            answers = await self._sessions.validate_each(
                [(call.caller, call.request) for call in calls]
            )
            self._check_answer()
        except Exception as error:  # noqa: BLE001 - any failure becomes a documented error
            failure: Exception = error
            for call in calls:
                self._fail(call, failure)
                if not isinstance(failure, AuthorityError):
                    failure = UnexpectedFailure()  # Log the cause only once, for the first call.
            return
        for call, answer in zip(calls, answers, strict=True):
            if type(answer) is bytes:
                _succeed(call, answer)
            elif isinstance(answer, AuthorityError):
                self._fail(call, answer)
            else:
                call.task = asyncio.create_task(self._finish(call, answer))

    async def _finish(self, call: Call, answer: Any) -> None:
        try:
            answered = await _limit_time(answer, call.seconds_left)
            self._check_answer()
            _succeed(call, answered)
        except Exception as error:  # noqa: BLE001 - any failure becomes a documented error
            self._fail(call, error)

    def _count_unknown_token(self, caller: Caller, error: SessionNotLive) -> AuthorityError:
        """Count the error if its token is unknown. Return the error to answer with."""
        is_unknown = error.rejected is not None and error.superseded is None
        return (self._rejected.count(caller) if is_unknown else None) or error

    def _fail(self, call: Call, error: Exception) -> None:
        answer = refusal(call.method.name, error, call.origin, call.caller.key_id)
        _observe(call, answer.code.name)
        call.answer(answer)

    def _refuse(self, call: Call) -> None:
        # Don't log it, because an overload would write thousands of lines.
        code = _OVERLOADED.code.name
        RPC_ERRORS.inc(call.method.name, code, _OVERLOADED.reason)
        RPC_DURATION.observe((call.method.name, code), time.perf_counter() - call.arrived)
        call.answer(_OVERLOADED)


def _handlers(services: Sequence[object]) -> Mapping[str, Handler]:
    return {
        method.name: handler
        for method in METHODS.values()
        for service in services
        if not method.streams and (handler := getattr(service, method.name, None)) is not None
    }


def _succeed(call: Call, answer: bytes) -> None:
    _observe(call, "OK")
    call.answer(answer)


def _observe(call: Call, code: str) -> None:
    seconds = time.perf_counter() - call.arrived
    RPC_DURATION.observe((call.method.name, code), seconds)
    if seconds > SLOW_SECONDS:
        _log.warning("slow call", method=call.method.name, seconds=round(seconds, 3))


def _limit_time(answer: Awaitable[Any], seconds_left: float | None) -> Awaitable[Any]:
    """Limit the time of a call whose deadline is missing or too late. The hosts enforce other deadlines."""
    if seconds_left is None:
        return _within(DEADLINE_SECONDS, answer)
    if seconds_left > LONGEST_DEADLINE_SECONDS:
        return _within(LONGEST_DEADLINE_SECONDS, answer)
    return answer


async def _within(seconds: float, answer: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise DeadlineExceeded from None
