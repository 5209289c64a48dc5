"""How changes come to a server, wherever they were made."""

from typing import Protocol

from session_authority_server.domain.session import Changes


class Receiver(Protocol):
    """Takes what comes through a channel. Its methods must neither wait nor raise."""

    def up(self) -> None:
        """Every change that is committed from now on comes through."""
        ...

    def lost(self) -> None:
        """Changes may have been missed, and more may be missed until `up`."""
        ...

    def changed(self, changes: Changes) -> None:
        """Changes were committed."""
        ...

    def returned(self, number: int) -> None:
        """A probe came back. Every change that was committed before it was sent has come through."""
        ...


class Channel(Protocol):
    """Brings every change that is committed, in an order that probes keep to."""

    def probe(self, number: int) -> None:
        """Send a number that comes back after every change that is committed by now.

        While the channel is down, the number may be lost.
        """
        ...

    async def run(self, receiver: Receiver) -> None:
        """Pass what comes to a receiver. Reopen the channel whenever it is lost, until cancelled."""
        ...
