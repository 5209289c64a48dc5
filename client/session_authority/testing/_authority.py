"""The authority for tests."""

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from session_authority.aio import AsyncSessionClient
from session_authority.session import Identity, IpAddress, Location, NewSession
from session_authority.sync import SessionClient
from session_authority.web.site import test_clocks

try:
    from session_authority_server.app.serving import RunningServer, ServeOptions, serving
    from session_authority_server.config import Settings
    from session_authority_server.domain.clock import Clock, ManualClock, SystemClock
    from session_authority_server.domain.errors import StoreUnavailable
    from session_authority_server.domain.location import Location as FoundLocation
    from session_authority_server.domain.policy import AtLimit, Policy
    from session_authority_server.rpc.authentication import Caller, Metadata, allow_every_call
    from session_authority_server.store import schema
    from session_authority_server.store.database import Database
except ImportError as error:
    raise ImportError(
        "session_authority.testing runs the real server, which is not installed completely "
        f"({error}); install session-authority with its extra `server`"
    ) from error

_DEFAULTS = Policy()
_START_LIMIT_SECONDS = 30.0
_MOVE_LIMIT_SECONDS = 30.0

# The library that runs the database migrations is not thread-safe.
_start_lock = threading.Lock()

_new_database: list[bytes] = []

_Result = TypeVar("_Result")


def _create_database(path: Path) -> None:
    """Create a database. Only the first one in a process is migrated. The others are copies, which is much faster."""
    if not _new_database:
        asyncio.run(_migrate(path))
        _new_database.append(path.read_bytes())
    path.write_bytes(_new_database[0])


async def _migrate(path: Path) -> None:
    database = Database.sqlite(path)
    try:
        await schema.migrate(database)
    finally:
        await database.close()


class _MovedClock:
    """A clock that a test can advance. Its inner clock runs or stands still."""

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return self._inner.now() + self._ahead

    def advance(self, by: timedelta) -> None:
        self._ahead += by


class Authority:
    """A running authority, which `authority` starts.

    All methods are thread-safe and may be called from an event loop, because the server has its own thread and loop.
    """

    def __init__(
        self, settings: Settings, clock: _MovedClock, locations: Mapping[str, FoundLocation]
    ) -> None:
        assert settings.sqlite_path is not None
        self._path = settings.sqlite_path
        self._settings = settings
        self._clock = clock
        self._locations = locations
        self._outages = 0
        self._started: Future[tuple[asyncio.AbstractEventLoop, RunningServer]] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, name="session-authority-testing", daemon=True
        )
        with _start_lock:
            self._thread.start()
            self._loop, self._served = self._started.result(_START_LIMIT_SECONDS)
        self._client = SessionClient(self.address)
        self._at_stop = contextlib.ExitStack()
        test_clocks[self.address] = self._clock.now

    @property
    def address(self) -> str:
        """The address of the authority: a free port of the loopback address."""
        return self._served.address

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables with which `from_env` calls this authority. Other settings are emptied."""
        return {
            "SESSION_AUTHORITY_ADDRESS": self.address,
            "SESSION_AUTHORITY_API_KEY": "",
            "SESSION_AUTHORITY_TLS": "off",
            "SESSION_AUTHORITY_TLS_ROOT_CERTIFICATES": "",
            "SESSION_AUTHORITY_TLS_CLIENT_CERTIFICATE": "",
            "SESSION_AUTHORITY_TLS_CLIENT_KEY": "",
        }

    @property
    def now(self) -> datetime:
        """The current time of the authority's clock."""
        return self._clock.now()

    def client(self) -> SessionClient:
        """Return a new client of this authority. The caller must close it."""
        return SessionClient(self.address)

    def async_client(self) -> AsyncSessionClient:
        """Return a new client of this authority. The caller must close it."""
        return AsyncSessionClient(self.address)

    def sign_in(
        self,
        user_id: str,
        *,
        ip_address: IpAddress = None,
        user_agent: str | bytes | None = None,
        authentication_methods: Iterable[str] = (),
        lifetime: timedelta | None = None,
        idle_timeout: timedelta | None = None,
        attributes: Mapping[str, str] | None = None,
        actor_id: str | None = None,
        identity: Identity | None = None,
    ) -> NewSession:
        """Sign a user in without the app. The arguments are those of `create`."""
        return self._client.create(
            user_id,
            ip_address=ip_address,
            user_agent=user_agent,
            authentication_methods=authentication_methods,
            lifetime=lifetime,
            idle_timeout=idle_timeout,
            attributes=attributes,
            actor_id=actor_id,
            identity=identity,
        )

    def advance(self, by: timedelta) -> None:
        """Advance the authority's clock. Every call that begins afterwards sees the later time.

        Web integrations whose clients call this authority follow the same clock, unless they have a clock of their
        own.

        Args:
            by: How far to advance the clock. Not negative.

        Raises:
            ValueError: `by` is negative.
            RuntimeError: The authority has stopped.
        """
        if by < timedelta(0):
            raise ValueError("a clock cannot go backwards")
        self._do(self._advance(by))

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Make every call fail with `Unavailable` until the end of the block. No data is lost.

        The streams of near caches end too. A client empties its near cache as soon as it notices.

        Raises:
            RuntimeError: The authority has stopped.
        """
        self._outages += 1
        try:
            self._do(self._check_streams())
            yield
        finally:
            self._outages -= 1

    def at_stop(self, work: Callable[[], object]) -> None:
        """Register a function to call when the authority stops, for example to restore an app's own client."""
        self._at_stop.callback(work)

    def stop(self) -> None:
        """Stop the authority for good, as at the end of the `with` block. A second call does nothing."""
        self._at_stop.close()
        test_clocks.pop(self.address, None)
        self._client.close()
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the server's loop may just have closed
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __repr__(self) -> str:
        return f"Authority({self.address!r})"

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("this authority has stopped")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_MOVE_LIMIT_SECONDS)

    async def _advance(self, by: timedelta) -> None:
        # The server writes activity only seconds later. Without a flush, the clock would jump over the write, and a
        # session that was used just before would seem unused.
        await self._served.activity.flush()
        self._clock.advance(by)

    async def _check_streams(self) -> None:
        self._served.check_streams()

    def _admit(self, method: str, metadata: Metadata) -> Caller:
        if self._outages:
            raise StoreUnavailable("testing an outage")
        return allow_every_call(method, metadata)

    def _run(self) -> None:
        try:
            _create_database(self._path)
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        async with serving(
            self._settings,
            ServeOptions(worker=False),
            clock=self._clock,
            authenticate=self._admit,
            locate=lambda address: self._locations.get(address or ""),
        ) as served:
            self._started.set_result((asyncio.get_running_loop(), served))
            await self._stop.wait()


@contextlib.contextmanager
def authority(
    *,
    lifetime: timedelta = _DEFAULTS.absolute_lifetime,
    idle_timeout: timedelta | None = _DEFAULTS.idle_timeout,
    session_limit: int | None = _DEFAULTS.session_limit,
    refuse_at_limit: bool = False,
    max_authentication_age: timedelta | None = _DEFAULTS.max_authentication_age,
    now: datetime | None = None,
    locations: Mapping[str, Location] | None = None,
) -> Iterator[Authority]:
    """Run an authority until the end of the block. It has no sessions and requires no API key.

    Several authorities can run at the same time. They ignore the environment and configuration files.

    Args:
        lifetime: The absolute lifetime of a session, at least a second. The default is 90 days.
        idle_timeout: The idle timeout of a session, at least a minute; None for no idle timeout.
        session_limit: How many live sessions a user may have; None for no limit. The default is 100.
        refuse_at_limit: Whether a sign-in at the limit fails. By default, the user's least recently active session ends
            instead.
        max_authentication_age: The maximum age of the proof of identity with which users may list or revoke their
            sessions; None for any age.
        now: An aware datetime at which the authority's clock stands still until a test advances it. By default, the
            clock runs from the current time.
        locations: The locations of IP addresses, by address. The default is none.

    Raises:
        ValueError: An argument has no usable value.
    """
    if now is not None and now.tzinfo is None:
        raise ValueError("now must have a time zone")
    with tempfile.TemporaryDirectory(prefix="session-authority-") as folder:
        settings = Settings.model_construct(  # reads no environment and no file
            listen="127.0.0.1:0",
            database_url=f"sqlite:///{folder}/sessions.sqlite",
            drain_seconds=0,
            absolute_lifetime_seconds=lifetime.total_seconds(),
            idle_timeout_seconds=idle_timeout.total_seconds() if idle_timeout else 0,
            session_limit=session_limit or 0,
            at_limit=AtLimit.REFUSE if refuse_at_limit else AtLimit.END_LEAST_RECENTLY_ACTIVE,
            max_authentication_age_seconds=(
                max_authentication_age.total_seconds() if max_authentication_age else 0
            ),
        )
        clock = _MovedClock(SystemClock() if now is None else ManualClock(now.astimezone(UTC)))
        places = {
            str(ip_address(address)): FoundLocation(**asdict(location))
            for address, location in (locations or {}).items()
        }
        running = Authority(settings, clock, places)
        try:
            yield running
        finally:
            running.stop()
