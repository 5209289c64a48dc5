"""How changes come to a server, wherever they were made."""

from typing import Protocol

from session_authority_server.domain.changes import Changes


class Receiver(Protocol):
    """Who is told what comes through a channel. Its methods must neither wait nor raise."""

    def up(self) -> None:
        """Hear that from now on every change that is committed comes through."""
        ...

    def lost(self) -> None:
        """Hear that changes may have been missed, and may be, until `up`."""
        ...

    def changed(self, changes: Changes) -> None:
        """Hear of changes."""
        ...

    def returned(self, number: int) -> None:
        """Hear that a probe came back: every change that was committed before it was sent has been told."""
        ...


class Channel(Protocol):
    """Brings every change that is committed, in an order that probes keep to."""

    def probe(self, number: int) -> None:
        """Send a number through, to come back behind every change that is committed by now.

        While the channel is down it may be lost.
        """
        ...

    async def run(self, receiver: Receiver) -> None:
        """Bring what comes to a receiver, and open the channel anew whenever it is lost, until cancelled."""
        ...
