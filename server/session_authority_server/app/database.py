"""Open the database that the settings name, or refuse to start."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import structlog

from session_authority_server.app.process import CannotStart
from session_authority_server.config import Settings
from session_authority_server.domain.clock import SystemClock
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.store import schema
from session_authority_server.store.database import Database, reason_of
from session_authority_server.store.engine.sqlite import SqliteFile
from session_authority_server.store.fence import Fence
from session_authority_server.store.keys import SqlKeyStore
from session_authority_server.store.lost_endings import LostEndings
from session_authority_server.store.state_directory import StateDirectory, StateUnusable

# How often a server checks that its SQLite file is still in place.
_CHECK_FILE_SECONDS = 0.1

_log = structlog.get_logger("session_authority")


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, *, make_schema: bool = False, serve: bool = False
) -> AsyncIterator[Database]:
    """Open a database, and check that this program works with its schema.

    Args:
        settings: The settings that name the database.
        make_schema: Whether to create the schema if it is missing.
        serve: Whether this process becomes the one server of a SQLite file.

    Raises:
        CannotStart: If the database can't be opened, or its schema does not serve this program.
        AlreadyServed: If a server's claim to the SQLite file excludes this process.
    """
    with claimed(settings, make=make_schema, serve=serve) as file:
        database = database_of(settings, file=file)
        try:
            await _check_schema(settings, database, make_schema=make_schema)
            yield database
        finally:
            await database.close()


async def _check_schema(settings: Settings, database: Database, *, make_schema: bool) -> None:
    try:
        version = await schema.read_version(database)
        if version.current is None and make_schema:
            await schema.migrate(database)
        elif not version.serves:
            raise CannotStart(
                f"the schema of {settings.database} is {version.current or 'missing'}, and this program needs "
                f"{version.wanted}; {version.remedy}"
            )
        elif not version.is_current:
            _log.info("the schema is from a newer release", schema=version.current)
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None


@contextlib.asynccontextmanager
async def fenced(settings: Settings, database: Database) -> AsyncIterator[LostEndings | None]:
    """Let a fence guard the database while the context lasts, and look for lost endings first.

    Yield None without a state directory.

    Raises:
        CannotStart: If the state directory can't be used.
        StoreUnavailable: If the database can't be used.
    """
    path = settings.state_path
    if path is None:
        yield None
        return
    directory = StateDirectory(path)
    try:
        directory.open()
    except StateUnusable as error:
        directory.close()
        raise CannotStart(str(error)) from None
    fence = Fence(directory)
    lost_endings = LostEndings(database, fence, SystemClock())
    try:
        await lost_endings.look()
        database.fence = fence
        yield lost_endings
    finally:
        database.fence = None
        fence.close()


async def check_tables_and_grants(settings: Settings, database: Database) -> None:
    """Check that the database has every table, column and privilege that calls need.

    Raises:
        CannotStart: If a table, a column or a privilege is missing.
    """
    try:
        missing = await schema.find_missing(database)
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None
    if missing is not None:
        raise CannotStart(f"the database {settings.database} can't be used: {missing}")


def database_of(
    settings: Settings, *, read_only: bool = False, file: SqliteFile | None = None
) -> Database:
    """Return the database that the settings name, without connecting to it.

    Args:
        settings: The settings that name the database.
        read_only: Whether to open a SQLite file without changing it or blocking other processes.
        file: This process's claim to a SQLite file. Commits fail once the file has moved.

    Raises:
        CannotStart: If the settings alone show that the database can't be used.
    """
    path = settings.sqlite_path
    if path is None:
        try:
            return Database.postgresql(settings.database_url)
        except ImportError:
            raise CannotStart(
                "PostgreSQL needs its driver; install session-authority with its extra `postgres`"
            ) from None
        except ValueError as error:
            raise CannotStart(f"SESSION_AUTHORITY_DATABASE_URL can't be used: {error}") from None
    _check_path(path, must_exist=True)
    return Database.sqlite(path, read_only=read_only, file=file)


@contextlib.contextmanager
def claimed(
    settings: Settings, *, make: bool = False, serve: bool = False
) -> Iterator[SqliteFile | None]:
    """Claim the SQLite file for this process while the context lasts. Do nothing for PostgreSQL.

    Args:
        settings: The settings that name the database.
        make: Whether to create a missing file.
        serve: Whether this process becomes the one server of the file.

    Raises:
        CannotStart: If the file can't be used.
        AlreadyServed: If a server's claim to the file excludes this process.
        FileReplaced: If the file is replaced while this process claims it.
    """
    path = settings.sqlite_path
    if path is None:
        yield None
        return
    _check_path(path, must_exist=not make)
    with contextlib.ExitStack() as stack:
        try:
            if not path.exists():
                path.touch(mode=0o600)  # other users may not read the users' ids and addresses
            file = stack.enter_context(SqliteFile(path, serve=serve))
        except OSError as error:
            raise CannotStart(
                f"{error.filename or path} can't be written to: {error.strerror}"
            ) from None
        except sqlite3.Error as error:
            raise CannotStart(f"the database {settings.database} can't be used: {error}") from None
        if serve and file.links > 1:
            _log.warning(
                "the database file has several names, and opening it by two of them corrupts it; remove the other names",
                file=str(file.path),
                names=file.links,
            )
        yield file


def _check_path(path: Path, *, must_exist: bool) -> None:
    try:
        has_folder, exists = path.parent.is_dir(), path.exists()
    except OSError as error:
        raise CannotStart(
            f"the database {path} can't be used: {error.strerror}; run this command as the user of the server, or set "
            "SESSION_AUTHORITY_DATABASE_URL to another database"
        ) from None
    if not has_folder:
        raise CannotStart(
            f"there is no folder {path.parent} for the database; create the folder first"
        )
    if must_exist and not exists:
        raise CannotStart(
            f"there is no database {path}; set SESSION_AUTHORITY_DATABASE_URL to an existing one, or create it "
            "with: session-authority migrate"
        )


@contextlib.asynccontextmanager
async def stopping_if_displaced(database: Database) -> AsyncIterator[None]:
    """Send SIGTERM to this process once its SQLite file is moved, removed or replaced.

    Raises:
        FileReplaced: At the end of the context, if that happened.
    """
    watching = asyncio.create_task(_watch(database))
    try:
        yield
    finally:
        gone = watching.done()
        watching.cancel()
    if gone:
        await watching


async def _watch(database: Database) -> None:
    while (error := database.displaced()) is None:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_CHECK_FILE_SECONDS)
    _log.critical("stopping", reason=str(error))
    signal.raise_signal(signal.SIGTERM)
    raise error


def cannot_use(settings: Settings, error: StoreUnavailable) -> CannotStart:
    """Return the error for a database that doesn't answer."""
    return CannotStart(
        f"the database {settings.database} can't be used: {reason_of(error.__cause__)}"
    )


@contextlib.asynccontextmanager
async def key_store(settings: Settings, database: Database) -> AsyncIterator[SqlKeyStore]:
    """Open the store of API keys, with its own connections for reads.

    A server that can't read the keys for several seconds refuses every call. So calls that keep the other
    connections busy must not delay these reads.
    """
    reads = database_of(settings)
    reads.fence = database.fence
    try:
        yield SqlKeyStore(database, reads_from=reads)
    finally:
        await reads.close()
