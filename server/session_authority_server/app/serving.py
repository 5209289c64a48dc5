"""Start a server, and drain it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from grpc_health.v1 import health_pb2

from session_authority_server.app.clock_skew import ClockSkew
from session_authority_server.app.database import (
    check_tables_and_grants,
    fenced,
    key_store,
    opened,
    stopping_if_displaced,
)
from session_authority_server.app.development_key import make_first_key
from session_authority_server.app.grpc_server import (
    bind,
    certificates,
    drain,
    refuse_exposure,
    stop_process_when_host_ends,
)
from session_authority_server.app.locations import locating
from session_authority_server.app.outputs import auditing, metrics, traces
from session_authority_server.app.process import StoppedServing
from session_authority_server.app.reporting import reporting
from session_authority_server.app.running import log_start
from session_authority_server.app.upkeep import right_clock, watch_sessions, working
from session_authority_server.app.wiring import Server, new_server
from session_authority_server.background.activity import Activity
from session_authority_server.background.keyring import Keyring
from session_authority_server.config import Settings
from session_authority_server.devices.parser import warm_up
from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.ports.store import Audit, Locate
from session_authority_server.rpc.authentication import (
    Authenticate,
    Authentication,
    allow_every_call,
)
from session_authority_server.rpc.certificates import Certificates
from session_authority_server.rpc.host import Health
from session_authority_server.rpc.methods import SERVICES
from session_authority_server.store.database import Database
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.lost_endings import LostEndings
from session_authority_server.store.reporting import Reporter

if TYPE_CHECKING:
    from session_authority_server.rpc.tracing import Tracing

_log = structlog.get_logger("session_authority")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of one server process, in addition to the operator's settings.

    Attributes:
        worker: Whether to run the worker in this process too.
        insecure: Whether to require neither API keys nor, from other machines, encryption.
        allow_plaintext: Whether a proxy in front encrypts calls from other machines.
        share_port: Whether other processes of the same user may listen on the same port.
        standard_output: The file descriptor to use for standard output.
    """

    worker: bool = True
    insecure: bool = False
    allow_plaintext: bool = False
    share_port: bool = False
    standard_output: int = 1


class RunningServer(NamedTuple):
    """A server that accepts calls.

    Attributes:
        address: The address that the server listens on.
        host: The name of the host that speaks HTTP/2.
        activity: The uses of sessions that are not written yet.
        check_streams: A function that ends the streams of callers that have lost the permission to watch.
        certificates: The certificates, or None without TLS.
    """

    address: str
    host: str
    activity: Activity
    check_streams: Callable[[], None]
    certificates: Certificates | None


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    options: ServeOptions,
    *,
    show_key: Callable[[str], None] = lambda _key: None,
    clock: Clock | None = None,
    authenticate: Authenticate | None = None,
    locate: Locate | None = None,
) -> AsyncIterator[RunningServer]:
    """Serve while the context lasts, then drain.

    The parts start in the order of this function, and stop in the reverse order.

    Args:
        settings: The operator's settings.
        options: The options of this process.
        show_key: Called with the development key, if the server creates one.
        clock: The clock for all parts. By default the database's clock, or the machine's with SQLite.
        authenticate: Replaces the authentication by API keys.
        locate: Replaces the look-up of locations in the operator's file.

    Raises:
        CannotStart: If the address, the certificates, the locations or the database can't be used.
        AlreadyServed: If another process serves the same SQLite file.
        FileReplaced: At the end, if a SQLite file was moved, removed or replaced.
        StoppedServing: At the end, if gRPC stopped by itself.
    """
    refuse_exposure(settings, insecure=options.insecure, allow_plaintext=options.allow_plaintext)
    tls_certificates = certificates(settings)
    if options.insecure:
        authenticate = _allow_anyone_with_warning()
    async with (
        locating(settings) as found,
        _open_resources(settings, options) as (audit, tracing, database, lost_endings, keys),
        contextlib.AsyncExitStack() as reports,
    ):
        skew = ClockSkew(database, clock)
        await skew.settle()
        warm_up()
        located = locate or found
        reporter = await reports.enter_async_context(
            reporting(database, settings.policy, skew.clock, located)
        )
        keyring = Keyring(keys, skew.clock)
        server = new_server(
            settings,
            database,
            skew,
            audit,
            authenticate or Authentication(keyring),
            tls_certificates,
            share_port=options.share_port,
            tracing=tracing,
            locate=located,
            reporter=reporter,
        )
        address = bind(server.host, settings.listen)
        async with (
            metrics(settings, database, server.host.name),
            _flushing_activity_at_end(server),
            contextlib.nullcontext()
            if authenticate
            else _refreshing_keys(settings, keys, keyring, audit, skew.clock.now(), show_key),
            _background_loops(settings, database, server, skew.clock),
            _upkeep(settings, database, skew, audit, reporter, worker=options.worker),
            _accepting_calls(settings, server, skew, lost_endings) as host_ended,
        ):
            activity, check = server.context.activity, server.watch_service.check
            await log_start("server", settings, database, host=server.host.name, address=address)
            yield RunningServer(address, server.host.name, activity, check, tls_certificates)
            if host_ended.done():
                raise StoppedServing


def _allow_anyone_with_warning() -> Authenticate:
    _log.warning("--insecure: the server requires no API key, so any caller has all permissions")
    return allow_every_call


class _Resources(NamedTuple):
    """The outputs and the database, which a server opens before it builds its parts."""

    audit: Audit
    tracing: "Tracing | None"
    database: Database
    lost_endings: LostEndings | None
    keys: SqlKeyStore


@contextlib.asynccontextmanager
async def _open_resources(settings: Settings, options: ServeOptions) -> AsyncIterator[_Resources]:
    """Open the outputs and the database. Close them in the reverse order."""
    async with (
        # Close the audit log after the database, whose last transactions still record events.
        auditing(settings, options.standard_output) as audit,
        # Flush the traces after the last call has ended.
        traces() as tracing,
        _usable_database(settings) as database,
        fenced(settings, database) as lost_endings,
        key_store(settings, database) as keys,
    ):
        yield _Resources(audit, tracing, database, lost_endings, keys)


@contextlib.asynccontextmanager
async def _usable_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database and check it. Claim a SQLite file for this server alone.

    A new SQLite file gets its schema here. Servers share a PostgreSQL database, so the operator migrates it.
    """
    make_schema = settings.sqlite_path is not None
    async with (
        opened(settings, make_schema=make_schema, serve=True) as database,
        stopping_if_displaced(database),
    ):
        await check_tables_and_grants(settings, database)
        yield database


@contextlib.asynccontextmanager
async def _flushing_activity_at_end(server: Server) -> AsyncIterator[None]:
    """After the last call has ended, write the activity that is still in memory."""
    try:
        yield
    finally:
        try:
            await server.context.superseded.settle()
        finally:  # even if an operator interrupts the wait
            await _flush_activity(server.context.activity)


async def _flush_activity(activity: Activity) -> None:
    try:
        await activity.flush()
    except StoreUnavailable:
        _log.error(
            "activity could not be written before the server stopped", sessions=len(activity)
        )


@contextlib.asynccontextmanager
async def _refreshing_keys(
    settings: Settings,
    keys: SqlKeyStore,
    keyring: Keyring,
    audit: Audit,
    now: datetime,
    show_key: Callable[[str], None],
) -> AsyncIterator[None]:
    """Read the API keys before the first call, and refresh them while the context lasts."""
    await make_first_key(settings, keys, now, audit, show_key)
    await keyring.refresh()
    with _running_tasks(keyring.keep_current(), keyring.keep_uses_written()):
        yield


@contextlib.asynccontextmanager
async def _background_loops(
    settings: Settings, database: Database, server: Server, clock: Clock
) -> AsyncIterator[None]:
    """Run the background tasks of a server that accepts calls, while the context lasts.

    The tasks:

    * write activity
    * measure the worker's backlog and the live sessions
    * receive changes from other servers
    * send changes to watch streams
    * check these streams
    """
    with _running_tasks(
        server.context.activity.run(),
        watch_sessions(database, settings, clock),
        server.channel.run(server.hub),
        server.hub.run(),
        server.watch_service.keep_checking(),
    ):
        yield


@contextlib.asynccontextmanager
async def _upkeep(
    settings: Settings,
    database: Database,
    skew: ClockSkew,
    audit: Audit,
    reporter: Reporter,
    *,
    worker: bool,
) -> AsyncIterator[None]:
    """Run the worker. If workers run in other processes, only record for them that the clock is right."""
    right = right_clock(database, skew)
    if worker:
        async with working(database, settings, skew.clock, audit, right, reporter):
            yield
    else:
        with _running_tasks(*(() if right is None else (right.note_every_minute(),))):
            yield


@contextlib.asynccontextmanager
async def _accepting_calls(
    settings: Settings, server: Server, skew: ClockSkew, lost_endings: LostEndings | None
) -> AsyncIterator["asyncio.Task[None]"]:
    """Accept calls, and drain at the end. Yield a task that is done if gRPC stops by itself."""
    await server.host.start()
    host_ended = asyncio.create_task(stop_process_when_host_ends(server.host))

    async def report_health() -> None:
        lost = lost_endings is not None and lost_endings.are_known
        await _set_serving(server.health, skew.wrong is None and not lost)

    try:
        await report_health()
        looking = () if lost_endings is None else (lost_endings.watch(report_health),)
        with _running_tasks(skew.watch(lambda _serving: report_health()), *looking):
            yield host_ended
    finally:
        await drain(server.host, server.health, server.hub, settings.drain_seconds, host_ended)


@contextlib.contextmanager
def _running_tasks(*loops: Coroutine[Any, Any, object]) -> Iterator[None]:
    """Run endless loops, each in a task, and cancel them at the end."""
    tasks = [asyncio.create_task(each) for each in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _set_serving(health: Health, serving: bool) -> None:
    response = health_pb2.HealthCheckResponse
    for name in ("", *(each.full_name for each in SERVICES)):
        await health.set(name, response.SERVING if serving else response.NOT_SERVING)
