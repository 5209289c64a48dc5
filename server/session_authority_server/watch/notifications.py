import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import psycopg

from session_authority_server.store import notification
from session_authority_server.store.database import reason_of
from session_authority_server.store.postgresql_session import connect_arguments, cut_off, verify
from session_authority_server.watch.channel import Receiver

# How long a probe may take. No cache is used any more by then, because its lease is no longer.
PROBE_SECONDS = 2.0
# How often one is sent that nobody waits for, so that a connection which died in silence is noticed.
IDLE_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 5.0
# Nothing is written that a crash must not lose, and so its commit waits for no disk. It can't overtake another.
_PROBE = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"

_log = logging.getLogger(__name__)


Connection: TypeAlias = "psycopg.AsyncConnection[Any]"
# Of a probe that no ping waits for.
_NOBODYS = 0


class NotDirect(Exception):
    """A pooler is in between, through which nothing can be listened to."""


class Following:
    """What comes in on one connection, from its opening to its loss.

    Attributes:
        probe_channel: A channel of its own, so that no other server is bothered with its probes.
        was_up: Whether the receiver was ever told of everything.
        lost: Done when it is lost, with the reason.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.probe_channel = f"session_authority_probe_{secrets.token_hex(8)}"
        self.was_up = False
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._receiver: Receiver | None = receiver
        self._expected = _NOBODYS
        self._back: asyncio.Future[None] | None = None

    def come_up(self) -> None:
        """Have the receiver told of everything from now on."""
        if self._receiver is not None:
            self.was_up = True
            self._receiver.up()

    def expect(self, number: int) -> "asyncio.Future[None]":
        """Return what is done when a probe has come back."""
        self._expected = number
        self._back = asyncio.get_running_loop().create_future()
        return self._back

    def hear(self, channel: str, payload: str) -> None:
        """Take in a notification."""
        if self._receiver is None:
            return
        if channel == notification.CHANNEL:
            self._receiver.changed(notification.read(payload))
        elif self._back is not None and payload == str(self._expected) and not self._back.done():
            self._back.set_result(None)
            self._receiver.returned(self._expected)

    def sent(self, sending: "asyncio.Future[Any]") -> None:
        """Hear how sending a probe went."""
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, Exception):
            self.lose(error)

    def lose(self, error: Exception) -> None:
        """Have the receiver know at once that it is not told of everything any more."""
        if not self.lost.done():
            self.lost.set_result(error)
            self.end()

    def end(self) -> None:
        """Tell the receiver of nothing any more."""
        receiver, self._receiver = self._receiver, None
        if self.was_up and receiver is not None:
            receiver.lost()

    def check(self) -> None:
        """Check that it goes on.

        Raises:
            Exception: Why it doesn't.
        """
        if self.lost.done():
            raise self.lost.result()


class NotificationChannel:
    """The channel through PostgreSQL: changes are notified by the transactions that make them.

    One connection listens, and does nothing else. Probes are sent by another, which goes where transactions go:
    what comes back has proven that the listener hears what is committed there. A listener behind a transaction
    pooler, at a standby or at a primary that was replaced doesn't, and so nobody is ever told that it did.
    """

    def __init__(self, database_url: str, listen_url: str) -> None:
        """Take where transactions go, and where to listen.

        Args:
            database_url: Of the database, possibly through a transaction pooler.
            listen_url: Of the same one, directly.

        Raises:
            ValueError: If either can't be read.
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
            following = Following(receiver)
            try:
                await self._follow(following)
            except (psycopg.Error, OSError, TimeoutError, NotDirect) as error:
                _log_loss(error, was_up=following.was_up)
            except Exception:  # noqa: BLE001 - nothing stops the listening
                _log.exception("listening for changes failed")
            finally:
                following.end()
            failures = 0 if following.was_up else failures + 1
            longest = min(FIRST_RETRY_SECONDS * 2 ** min(failures, 10), LONGEST_RETRY_SECONDS)
            # Many servers lose it at once.
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - no secret

    async def _follow(self, following: Following) -> None:
        """Listen and probe until a connection is lost, or a probe."""
        async with _connected(self._listener_arguments) as listener:
            await _check_direct(listener)
            for channel in (notification.CHANNEL, following.probe_channel):
                await listener.execute(f"LISTEN {channel}".encode())
            with _heard_by(following, listener):
                async with _connected(self._prober_arguments) as prober:
                    await _probe(prober, following, _NOBODYS)
                    following.come_up()
                    while True:
                        await _probe(prober, following, await self._next(following))

    async def _next(self, following: Following) -> int:
        """Return the number of the next probe, when there is one, or else when it is time for one."""
        wanting = asyncio.ensure_future(self._wanted.wait())
        try:
            await _first(IDLE_SECONDS, wanting, following.lost)
        finally:
            wanting.cancel()
        following.check()
        if not self._wanted.is_set():
            return _NOBODYS
        self._wanted.clear()
        return self._number


async def _probe(prober: Connection, following: Following, number: int) -> None:
    """Send a probe, and wait until it has come back."""
    back = following.expect(number)
    sending = asyncio.ensure_future(prober.execute(_PROBE, (following.probe_channel, str(number))))
    sending.add_done_callback(following.sent)
    try:
        await _first(PROBE_SECONDS, back, following.lost)
        if not back.done():
            # At once, for what follows may take its time.
            following.lose(TimeoutError("a probe did not come back"))
        await _first(PROBE_SECONDS, sending, following.lost)
        following.check()
    finally:
        if not sending.done():
            cut_off(prober)
            await asyncio.wait([sending])


async def _first(seconds: float, *futures: "asyncio.Future[Any]") -> None:
    """Wait for one of several things, and not for long."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


@contextlib.contextmanager
def _heard_by(following: Following, connection: Connection) -> Iterator[None]:
    """Have what comes in on a connection heard as it does, without a task that would wait for it."""
    loop, libpq = asyncio.get_running_loop(), connection.pgconn

    def read() -> None:
        try:
            libpq.consume_input()
            while (notify := libpq.notifies()) is not None:
                following.hear(notify.relname.decode(), notify.extra.decode())
        except Exception as error:  # noqa: BLE001 - whatever was not heard must not go unnoticed
            loop.remove_reader(socket)
            following.lose(error)

    socket = libpq.socket
    loop.add_reader(socket, read)
    try:
        yield
    finally:
        loop.remove_reader(socket)


async def _check_direct(connection: Connection) -> None:
    """Check that a connection is PostgreSQL's own, before something is left behind on one that others share.

    A pooler gives out numbers of its own in place of that of the process behind it.

    Raises:
        NotDirect: If there is a pooler between.
    """
    cursor = await connection.execute("SELECT pg_backend_pid()")
    if await cursor.fetchone() != (connection.info.backend_pid,):
        raise NotDirect


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
    elif isinstance(error, TimeoutError | NotDirect):
        _log.error(
            "what the database notifies does not come through; give its direct address, without a pooler, in "
            "SESSION_AUTHORITY_WATCH_DATABASE_URL"
        )
    else:
        _log.error("can't listen for changes: %s", reason_of(error))
