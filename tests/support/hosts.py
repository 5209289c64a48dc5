"""Both hosts, for tests that run on each of them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from session_authority_server.domain.clock import ManualClock
from session_authority_server.rpc.authentication import (
    Authenticate,
    RejectedTokens,
    allow_every_call,
)
from session_authority_server.rpc.call_queue import CallQueue
from session_authority_server.rpc.dispatcher import Dispatcher
from session_authority_server.rpc.host import Health, Host
from session_authority_server.rpc.host.grpcio import GrpcioHost
from session_authority_server.rpc.host.native import NativeHost

HOSTS = ("grpcio", "native")


class NoSessions:
    """The service with ValidateSession alone, which accepts every token."""

    async def validate_each(self, calls: Sequence[Any]) -> list[Any]:
        return [b"" for _ in calls]


def new_dispatcher(
    sessions: Any = None,
    others: Sequence[object] = (),
    *,
    authenticate: Authenticate = allow_every_call,
    queue: CallQueue | None = None,
    rejected_per_minute: int = 0,
) -> Dispatcher:
    """Return a dispatcher for some services. By default, it accepts every caller."""
    rejected = RejectedTokens(ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), rejected_per_minute)
    service: Any = sessions or NoSessions()
    return Dispatcher(
        service, others, authenticate, CallQueue() if queue is None else queue, rejected
    )


def new_host(name: str, dispatcher: Dispatcher, streams: Mapping[str, Any] | None = None) -> Host:
    grpcio = GrpcioHost(dispatcher, streams or {}, Health())
    return grpcio if name == "grpcio" else NativeHost(dispatcher, grpcio)


@asynccontextmanager
async def serving(
    name: str, dispatcher: Dispatcher, streams: Mapping[str, Any] | None = None
) -> AsyncIterator[str]:
    """Serve on a free port of this machine, and yield the address."""
    host = new_host(name, dispatcher, streams)
    address = host.bind("127.0.0.1:0")
    await host.start()
    try:
        yield address
    finally:
        await host.stop(0)
