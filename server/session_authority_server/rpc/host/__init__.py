"""The interface of a host, and the health service of both hosts.

A host speaks HTTP/2 and gRPC, and passes each call to the dispatcher. `grpcio` supports TLS. `native` is several times
as fast and has no TLS.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from grpc_health.v1 import health, health_pb2

from session_authority_server.domain.errors import AuthorityError
from session_authority_server.rpc.authentication import Caller, Metadata
from session_authority_server.rpc.call_queue import Call
from session_authority_server.rpc.error_table import Answer
from session_authority_server.rpc.methods import Method
from session_authority_server.rpc.refused_calls import Origin

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing


class UnaryCalls(Protocol):
    """The unary RPCs that a host serves. `Dispatcher` has those of the authority.

    Attributes:
        unary: The RPCs.
        tracing: Creates the calls, if the server exports traces.
    """

    unary: Sequence[Method]
    tracing: "Tracing | None"

    def admit(self, path: str, metadata: Metadata) -> Caller:
        """Return the caller of an RPC.

        Raises:
            AuthorityError: If the caller may not call the RPC. The host then answers with `turn_away`.
        """

    def turn_away(
        self, path: str, metadata: Metadata, error: AuthorityError, origin: Origin
    ) -> Answer:
        """Return the status for a call that was not admitted."""

    def take(self, call: Call, payload: bytes) -> None:
        """Check and run a call. It will be answered, unless it is cancelled."""


class Host(Protocol):
    """A gRPC server.

    Attributes:
        name: The value of the setting `host` that selects it.
    """

    name: str

    def bind(self, address: str) -> str:
        """Listen on an address. Return the address with the actual port.

        Raises:
            CannotListen: If the address is in use, or belongs to another machine.
        """

    async def start(self) -> None:
        """Start to accept calls."""

    async def stop(self, grace_seconds: float) -> None:
        """Stop accepting calls. Cancel those that are still in flight after the grace period."""

    async def ended(self) -> None:
        """Wait until the host no longer accepts calls. Unless `stop` was called, that is a failure."""


class CannotListen(Exception):
    """The address is in use, or belongs to another machine."""


class Health(health.aio.HealthServicer):
    """`grpc.health.v1.Health` that ends its watch streams when the server drains.

    The library's servicer keeps these streams open. Each would delay the drain until the grace period ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """Report NOT_SERVING from now on. Send it to every watcher, and end their streams."""
        await self.enter_graceful_shutdown()
        self._draining.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((watching, draining), return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                await asyncio.sleep(0)  # lets the library's task send NOT_SERVING first
        finally:
            for task in (watching, draining):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
