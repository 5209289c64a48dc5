"""Hosts speak HTTP/2 and gRPC, and hand each call over. Both serve the health service below.

Two hosts implement one interface. `grpcio` supports TLS. `native` is several times as fast and has no TLS.
"""

import asyncio
import contextlib
from typing import Any, Protocol

from grpc_health.v1 import health, health_pb2


class Host(Protocol):
    """A gRPC server.

    Attributes:
        name: What the operator calls it.
    """

    name: str

    def bind(self, address: str) -> str:
        """Listen on an address, and return it with the port that was chosen.

        Raises:
            CannotListen: The address is in use, or not this machine's.
        """

    async def start(self) -> None:
        """Begin to take calls."""

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and wait for those in flight, for a bounded time."""

    async def ended(self) -> None:
        """Return once the host takes no more calls although nobody stopped it."""


class CannotListen(Exception):
    """The address is in use, or not this machine's."""


class Health(health.aio.HealthServicer):
    """`grpc.health.v1.Health` that lets its watchers go when the server drains.

    The library's keeps their streams open, and each would hold the drain up for its whole grace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """Say NOT_SERVING from now on, tell it to every watcher, and end their streams."""
        await self.enter_graceful_shutdown()
        self._draining.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((watching, draining), return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                await asyncio.sleep(0)  # the watcher was told before us, and speaks first
        finally:
            for task in (watching, draining):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
