"""Hosts: what speaks HTTP/2 and gRPC, and hands each call over.

Two hosts implement the one interface below. `grpcio` supports TLS. `native` is several times as fast and has no TLS.
"""

from typing import Protocol


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
