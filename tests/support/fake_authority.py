"""An authority with scripted answers, over real gRPC on loopback."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from session_authority.v1 import session_pb2
from session_authority.v1 import session_service_pb2 as v1
from tests.unit.client.fake_watch import FakeWatch

SERVICE = v1.DESCRIPTOR.services_by_name["SessionService"]
TOKEN = "ses_" + "A" * 70
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NOON_MESSAGE = Timestamp(seconds=int(NOON.timestamp()))


@dataclass(frozen=True)
class Received:
    method: str
    request: Any
    metadata: dict[str, str | bytes]
    seconds_left: float


@dataclass(frozen=True)
class Fault:
    code: grpc.StatusCode
    text: str = ""
    details: bytes | None = None

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        served_by = ("x-served-by", "fake")
        if self.details is None:
            return (served_by,)
        return served_by, ("grpc-status-details-bin", self.details)


@dataclass(frozen=True)
class Silence:
    """An answer that never comes while the test lasts."""


Answer = Message | bytes | Fault | Silence


class FakeAuthority:
    def __init__(self) -> None:
        self.calls: list[Received] = []
        self.released = threading.Event()
        self.hold: threading.Event | None = None
        self.address = ""
        self.watch = FakeWatch()
        self._answers: dict[str, deque[Answer] | Callable[[Any], Answer]] = {}

    def answers(self, method: str, *answers: Answer) -> None:
        """Set the answers to the calls of a method, in order. The last answer repeats."""
        self._answers[method] = deque(answers)

    def answers_by(self, method: str, answer: Callable[[Any], Answer]) -> None:
        self._answers[method] = answer

    @property
    def requests(self) -> list[Any]:
        return [call.request for call in self.calls]

    def take(self, method: str, request: Message, context: Any) -> Answer:
        metadata = dict(context.invocation_metadata())
        self.calls.append(Received(method, request, metadata, context.time_remaining()))
        answers = self._answers[method]
        if not isinstance(answers, deque):
            return answers(request)
        return answers.popleft() if len(answers) > 1 else answers[0]


class RunningAuthority(Protocol):
    fake: FakeAuthority

    async def stop(self) -> None: ...


class ThreadedAuthority:
    """The fake authority on a server with threads."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.fake = FakeAuthority()
        self._threads = ThreadPoolExecutor(16)
        self._server = grpc.server(
            self._threads,
        )
        watch = self.fake.watch
        self._server.add_generic_rpc_handlers(
            (_handlers(self._behaviour), watch.handlers(watch.in_threads))
        )
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.fake.address = f"127.0.0.1:{port}"
        self._server.start()

    def _behaviour(self, method: str) -> Callable[[Any, Any], Any]:
        def behave(request: Message, context: Any) -> Any:
            answer = self.fake.take(method, request, context)
            if self.fake.hold is not None:
                self.fake.hold.wait(10)
            if isinstance(answer, Silence):
                self.fake.released.wait(10)
                context.abort(grpc.StatusCode.CANCELLED, "")
            if isinstance(answer, Fault):
                context.set_trailing_metadata(answer.trailing_metadata)
                context.abort(answer.code, answer.text)
            return answer

        return behave

    def stop_now(self) -> None:
        self.fake.released.set()
        self.fake.watch.end()
        self._server.stop(None).wait()
        self._threads.shutdown()

    async def stop(self) -> None:
        self.stop_now()


class AioAuthority:
    """The fake authority on an asyncio server."""

    def __init__(self) -> None:
        self.fake = FakeAuthority()
        self._server = grpc.aio.server()
        watch = self.fake.watch
        self._server.add_generic_rpc_handlers(
            (_handlers(self._behaviour), watch.handlers(watch.in_tasks))
        )
        self.fake.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    async def start(self) -> None:
        await self._server.start()

    def _behaviour(self, method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def behave(request: Message, context: Any) -> Any:
            answer = self.fake.take(method, request, context)
            while self.fake.hold is not None and not self.fake.hold.is_set():
                await asyncio.sleep(0.005)
            if isinstance(answer, Silence):
                await asyncio.sleep(10)
            if isinstance(answer, Fault):
                await context.abort(answer.code, answer.text, answer.trailing_metadata)
            return answer

        return behave

    async def stop(self) -> None:
        await self._server.stop(None)


def _handlers(behaviour: Callable[[str], Any]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICE.full_name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                behaviour(method.name),
                request_deserializer=GetMessageClass(method.input_type).FromString,
                response_serializer=_serialize,
            )
            for method in SERVICE.methods
        },
    )


def _serialize(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def session_message(session_id: str = "s-1", **fields: Any) -> session_pb2.Session:
    """Return a live session. `fields` override the defaults."""
    return session_pb2.Session(
        **{
            "session_id": session_id,
            "user_id": "ana",
            "state": session_pb2.SESSION_STATE_ACTIVE,
            "device": session_pb2.Device(
                browser="Chrome",
                browser_version="140.0",
                os="Windows",
                type=session_pb2.DEVICE_TYPE_DESKTOP,
                display_name="Chrome on Windows",
            ),
            "create_time": NOON,
            "authenticate_time": NOON,
            "last_active_time": NOON,
            "expire_time": NOON + timedelta(days=90),
            **fields,
        }
    )


def created(session_id: str = "s-1", token: str = TOKEN) -> v1.CreateSessionResponse:
    return v1.CreateSessionResponse(session=session_message(session_id), session_token=token)


def accepted(session_id: str = "s-1") -> v1.ValidateSessionResponse:
    return v1.ValidateSessionResponse(session=session_message(session_id))


def batch_of(
    answer: Callable[[v1.ValidateSessionRequest], v1.ValidateSessionResponse],
) -> Callable[[v1.BatchValidateSessionsRequest], v1.BatchValidateSessionsResponse]:
    """Return a function that answers each question of a batch separately."""
    return lambda batch: v1.BatchValidateSessionsResponse(
        responses=[answer(request) for request in batch.requests]
    )


def rejected(reason: v1.RejectionReason.ValueType) -> v1.ValidateSessionResponse:
    return v1.ValidateSessionResponse(rejection=v1.Rejection(reason=reason))


def fault(
    code: grpc.StatusCode,
    reason: str,
    text: str = "",
    *,
    domain: str = "session-authority",
    metadata: dict[str, str] | None = None,
    violations: dict[str, str] | None = None,
) -> Fault:
    """Return an error with the same details as the authority's."""
    status = status_pb2.Status(message=text)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {})
    )
    if violations:
        bad_request = error_details_pb2.BadRequest()
        for field, description in violations.items():
            bad_request.field_violations.add(field=field, description=description)
        status.details.add().Pack(bad_request)
    return Fault(code, text, status.SerializeToString())
