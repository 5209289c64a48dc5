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
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.store import schema
from session_authority_server.store.database import Database, reason_of
from session_authority_server.store.engine.sqlite import SqliteFile
from session_authority_server.store.keys import SqlKeyStore

# How often a server checks that its SQLite file is still in place.
_LOOK_SECONDS = 0.1

_log = structlog.get_logger("session_authority")


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, *, make_schema: bool = False, serve: bool = False
) -> AsyncIterator[Database]:
    """Open a database, and check that this program works with its schema.

    Args:
        settings: Which database.
        make_schema: Whether to make the schema if there is none.
        serve: Whether this process becomes the one server of a SQLite file.

    Raises:
        CannotStart: If the database can't be opened, or has another schema.
        AlreadyServed: If a server has claimed the SQLite file, and this process may not work beside it.
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
                f"the schema of {settings.database} is {version.current or 'missing'}, and this program works "
                f"with {version.wanted}; {version.remedy}"
            )
        elif not version.is_current:
            _log.info("the schema is of a newer release", schema=version.current)
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None


async def check_tables_and_grants(settings: Settings, database: Database) -> None:
    """Check that the database has every table, column and right that calls need, beside the right schema version.

    Raises:
        CannotStart: If a table, a column or a right is missing.
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
    """Return the database that the settings name, not yet connected to.

    Args:
        settings: Which database.
        read_only: Whether to open a file so that this process can neither change it nor block others.
        file: This process's claim to a SQLite file. No commit is answered once the file has moved.

    Raises:
        CannotStart: If the settings alone show that the database can't be used.
    """
    path = settings.sqlite_path
    if path is None:
        try:
            return Database.postgresql(settings.database_url)
        except ImportError:
            raise CannotStart(
                "PostgreSQL needs its driver; run: pip install 'session-authority[server,postgres]'"
            ) from None
        except ValueError:
            raise CannotStart(
                f"{settings.database} is no address of a database; give "
                "postgresql://user:password@host:port/database, with what is not a letter, digit or "
                "one of -._~ in a password as %XX"
            ) from None
    _check_path(path, must_exist=True)
    return Database.sqlite(path, read_only=read_only, file=file)


@contextlib.contextmanager
def claimed(
    settings: Settings, *, make: bool = False, serve: bool = False
) -> Iterator[SqliteFile | None]:
    """Claim the SQLite file for this process while the context lasts. Do nothing for PostgreSQL.

    Args:
        settings: Which database.
        make: Whether to make the file where there is none.
        serve: Whether this process becomes the one server of the file.

    Raises:
        CannotStart: If the file can't be used.
        AlreadyServed: If a server has claimed the file, and this process may not work beside it.
        FileReplaced: If the file is replaced meanwhile.
    """
    path = settings.sqlite_path
    if path is None:
        yield None
        return
    _check_path(path, must_exist=not make)
    with contextlib.ExitStack() as stack:
        try:
            if not path.exists():
                path.touch(mode=0o600)  # nobody else may read addresses and names
            file = stack.enter_context(SqliteFile(path, serve=serve))
        except OSError as error:
            raise CannotStart(
                f"{error.filename or path} can't be written to: {error.strerror}"
            ) from None
        except sqlite3.Error as error:
            raise CannotStart(f"the database {settings.database} can't be used: {error}") from None
        if serve and file.links > 1:
            _log.warning(
                "the database file has several names; opening it by two of them corrupts it. Remove the others",
                file=str(file.path),
                names=file.links,
            )
        yield file


def _check_path(path: Path, *, must_exist: bool) -> None:
    if not path.parent.is_dir():
        raise CannotStart(f"there is no folder {path.parent} for the database; make it first")
    if must_exist and not path.exists():
        raise CannotStart(
            f"there is no database {path}; name it in SESSION_AUTHORITY_DATABASE_URL, or make it "
            "with: session-authority migrate"
        )


@contextlib.asynccontextmanager
async def stopping_if_displaced(database: Database) -> AsyncIterator[None]:
    """Send SIGTERM to this process once its SQLite file is no longer in its place.

    Raises:
        FileReplaced: At the end of the context, if the file was moved, removed or replaced.
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
        await asyncio.sleep(_LOOK_SECONDS)
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
    """Open the store of API keys, which reads over connections of its own.

    A server that can't read its keys for some seconds refuses every call. Busy connections must not delay that read.
    """
    reads = database_of(settings)
    try:
        yield SqlKeyStore(database, reads_from=reads)
    finally:
        await reads.close()
