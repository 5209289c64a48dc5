"""The interface that brings changes to a server from all servers."""

from typing import Protocol

from session_authority_server.domain.session import Changes


class Receiver(Protocol):
    """Receives changes and probes from a channel. Its methods must neither wait nor raise."""

    def up(self) -> None:
        """Record that every change that is committed from now on will arrive."""
        ...

    def lost(self) -> None:
        """Record that changes may have been missed, and that more may be missed until `up` is called."""
        ...

    def changed(self, changes: Changes) -> None:
        """Receive committed changes."""
        ...

    def returned(self, number: int) -> None:
        """Receive a probe. Every change that was committed before the probe was sent has arrived."""
        ...


class Channel(Protocol):
    """Delivers every committed change. A probe arrives after all earlier changes."""

    def probe(self, number: int) -> None:
        """Send a probe. It comes back once, after all changes that are committed by now.

        A probe that is sent while the channel is down may be lost.
        """
        ...

    async def run(self, receiver: Receiver) -> None:
        """Deliver changes and probes to a receiver until cancelled. Reopen the channel whenever it is lost."""
        ...
