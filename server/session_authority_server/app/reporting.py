"""Report events to the receivers, from the transactions of this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Set

from session_authority_server.background.wanted_events import ALL_TYPES, WantedEvents
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.domain.payload import Payloads
from session_authority_server.domain.policy import Policy
from session_authority_server.domain.receiver import EventType
from session_authority_server.ports.store import Locate, nowhere
from session_authority_server.store.database import Database
from session_authority_server.store.receivers import SqlReceiverStore
from session_authority_server.store.reporting import Reporter


@contextlib.asynccontextmanager
async def reporting(
    database: Database, policy: Policy, clock: Clock, locate: Locate = nowhere
) -> AsyncIterator[Reporter]:
    """Yield a reporter for a process that runs for long. It knows which types the receivers want."""
    wanted = WantedEvents(SqlReceiverStore(database))
    with contextlib.suppress(StoreUnavailable):  # The loop tries again.
        await wanted.refresh()
    keeping_current = asyncio.create_task(wanted.keep_current())
    try:
        yield reporter(policy, clock, wanted.types, locate)
    finally:
        keeping_current.cancel()


def reporter(
    policy: Policy,
    clock: Clock,
    wanted: Callable[[], Set[EventType]] = lambda: ALL_TYPES,
    locate: Locate = nowhere,
) -> Reporter:
    """Return a reporter. Without `wanted`, each event has its statement, even if no receiver wants it."""
    return Reporter(wanted, Payloads(policy, locate), clock)
