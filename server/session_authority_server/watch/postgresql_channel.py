import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import psycopg

from session_authority_server.store.database import reason_of
from session_authority_server.store.engine import postgresql
from session_authority_server.store.engine.postgresql import connect_arguments, cut_off, verify
from session_authority_server.watch.channel import Receiver

# How long to wait for a probe to come back. A cache lease never lasts longer, so a slower probe can't renew one.
PROBE_SECONDS = 2.0
# The interval of probes while no ping waits. They detect a connection that broke silently.
IDLE_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0
# A probe writes nothing, so its commit need not wait for the disk. It still can't overtake another commit.
_PROBE = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"

_log = logging.getLogger(__name__)


Connection: TypeAlias = "psycopg.AsyncConnection[Any]"
# The number of a probe that no ping waits for.
_IDLE_PROBE = 0


class PoolerDetected(Exception):
    """The listener is connected through a pooler, where LISTEN does not work."""


class Subscription:
    """The state of one listening connection, from its opening to its loss.

    Attributes:
        probe_channel: A notification channel for this connection alone, so that its probes don't reach other servers.
        was_up: Whether the channel was ever up on this connection.
        lost: Done when the connection is lost, with the reason.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.probe_channel = f"session_authority_probe_{secrets.token_hex(8)}"
        self.was_up = False
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._receiver: Receiver | None = receiver
        self._expected = _IDLE_PROBE
        self._back: asyncio.Future[None] | None = None

    def report_up(self) -> None:
        """Report to the receiver that every change arrives from now on."""
        if self._receiver is not None:
            self.was_up = True
            self._receiver.up()

    def expect(self, number: int) -> "asyncio.Future[None]":
        """Return a future that is done once the probe with this number has come back."""
        self._expected = number
        self._back = asyncio.get_running_loop().create_future()
        return self._back

    def receive(self, channel: str, payload: str) -> None:
        """Handle a notification."""
        if self._receiver is None:
            return
        if channel == postgresql.CHANNEL:
            self._receiver.changed(postgresql.read_payload(payload))
        elif self._back is not None and payload == str(self._expected) and not self._back.done():
            self._back.set_result(None)
            self._receiver.returned(self._expected)

    def check_sent(self, sending: "asyncio.Future[Any]") -> None:
        """Report that the connection is lost, if the sending of a probe has failed."""
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, Exception):
            self.report_loss(error)

    def report_loss(self, error: Exception) -> None:
        """Report the loss to the receiver at once."""
        if not self.lost.done():
            self.lost.set_result(error)
            self.end()

    def end(self) -> None:
        """Detach the receiver. If the channel was up, report to the receiver that it is lost."""
        receiver, self._receiver = self._receiver, None
        if self.was_up and receiver is not None:
            receiver.lost()

    def check(self) -> None:
        """Check that the connection is not lost.

        Raises:
            Exception: The reason for the loss.
        """
        if self.lost.done():
            raise self.lost.result()


class PostgresqlChannel:
    """The channel for PostgreSQL. The transaction that makes a change also sends its notification.

    One connection only listens. A second connection, to the address that transactions use, sends the probes. A probe
    that comes back proves that the listener receives the notifications of these transactions.

    A listener behind a transaction pooler, at a standby, or at a replaced primary receives no probe. Its channel
    therefore never counts as up.
    """

    def __init__(self, database_url: str, listen_url: str) -> None:
        """Create the channel without connecting.

        Args:
            database_url: The address for transactions, possibly of a transaction pooler.
            listen_url: The direct address of the same database.

        Raises:
            ValueError: If an address can't be parsed.
        """
        self._prober_arguments = connect_arguments(database_url)
        self._listener_arguments = connect_arguments(listen_url)
        self._number = 0
        self._wanted = asyncio.Event()

    def probe(self, number: int) -> None:
        self._number = number
        self._wanted.set()

    async def run(self, receiver: Receiver) -> None:
        failures = 0
        while True:
            subscription = Subscription(receiver)
            try:
                await self._listen_and_probe(subscription)
            except (psycopg.Error, OSError, TimeoutError, PoolerDetected) as error:
                _log_loss(error, was_up=subscription.was_up)
            except Exception:  # noqa: BLE001 - nothing stops the listening
                _log.exception("listening for changes failed")
            finally:
                subscription.end()
            failures = 0 if subscription.was_up else failures + 1
            longest = min(FIRST_RETRY_SECONDS * 2 ** min(failures, 10), LONGEST_RETRY_SECONDS)
            # A random pause, because many servers lose the database at the same time.
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - no secret

    async def _listen_and_probe(self, subscription: Subscription) -> None:
        """Listen and probe until a connection or a probe is lost."""
        async with _connected(self._listener_arguments) as listener:
            await _check_direct(listener)
            for channel in (postgresql.CHANNEL, subscription.probe_channel):
                await listener.execute(f"LISTEN {channel}".encode())
            with _receiving(subscription, listener):
                async with _connected(self._prober_arguments) as prober:
                    await _probe(prober, subscription, _IDLE_PROBE)
                    subscription.report_up()
                    while True:
                        await _probe(prober, subscription, await self._next_probe(subscription))

    async def _next_probe(self, subscription: Subscription) -> int:
        """Wait until a ping needs a probe or IDLE_SECONDS have passed, and return the probe's number."""
        wanting = asyncio.ensure_future(self._wanted.wait())
        try:
            await _wait_for_first(IDLE_SECONDS, wanting, subscription.lost)
        finally:
            wanting.cancel()
        subscription.check()
        if not self._wanted.is_set():
            return _IDLE_PROBE
        self._wanted.clear()
        return self._number


async def _probe(prober: Connection, subscription: Subscription, number: int) -> None:
    """Send a probe, and wait until it has come back."""
    back = subscription.expect(number)
    sending = asyncio.ensure_future(
        prober.execute(_PROBE, (subscription.probe_channel, str(number)))
    )
    sending.add_done_callback(subscription.check_sent)
    try:
        await _wait_for_first(PROBE_SECONDS, back, subscription.lost)
        if not back.done():
            # The receiver must learn of the loss before the next wait, which may take long.
            subscription.report_loss(TimeoutError("a probe did not come back"))
        await _wait_for_first(PROBE_SECONDS, sending, subscription.lost)
        subscription.check()
    finally:
        if not sending.done():
            cut_off(prober)
            await asyncio.wait([sending])


async def _wait_for_first(seconds: float, *futures: "asyncio.Future[Any]") -> None:
    """Wait until one of several futures is done, or some seconds have passed."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


@contextlib.contextmanager
def _receiving(subscription: Subscription, connection: Connection) -> Iterator[None]:
    """Pass on notifications as they arrive, by a reader callback of the event loop instead of a task."""
    loop, libpq = asyncio.get_running_loop(), connection.pgconn

    def read() -> None:
        try:
            libpq.consume_input()
            while (notify := libpq.notifies()) is not None:
                subscription.receive(notify.relname.decode(), notify.extra.decode())
        except Exception as error:  # noqa: BLE001 - a missed notification must not go unnoticed
            loop.remove_reader(socket)
            subscription.report_loss(error)

    socket = libpq.socket
    loop.add_reader(socket, read)
    try:
        yield
    finally:
        loop.remove_reader(socket)


async def _check_direct(connection: Connection) -> None:
    """Check that the connection does not go through a pooler.

    LISTEN would change a connection that the pooler gives to other clients. A pooler reports a process number of its
    own instead of PostgreSQL's.

    Raises:
        PoolerDetected: If it goes through a pooler.
    """
    cursor = await connection.execute("SELECT pg_backend_pid()")
    if await cursor.fetchone() != (connection.info.backend_pid,):
        raise PoolerDetected


@contextlib.asynccontextmanager
async def _connected(arguments: dict[str, Any]) -> AsyncIterator[Connection]:
    connection = await psycopg.AsyncConnection.connect(autocommit=True, **arguments)
    try:
        verify(connection)
        yield connection
    finally:
        await connection.close()


def _log_loss(error: Exception, *, was_up: bool) -> None:
    if was_up:
        _log.error("the listener for changes was lost: %s; its streams ended", reason_of(error))
    elif isinstance(error, TimeoutError | PoolerDetected):
        _log.error(
            "notifications from the database do not arrive; set SESSION_AUTHORITY_WATCH_DATABASE_URL to its direct "
            "address, without a pooler"
        )
    else:
        _log.error("can't listen for changes: %s", reason_of(error))
