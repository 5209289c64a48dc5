"""The database of an operator's settings, opened or refused."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from session_authority_server.cannot_start import CannotStart
from session_authority_server.config import Settings
from session_authority_server.domain.errors import StoreUnavailable
from session_authority_server.store import schema
from session_authority_server.store.database import Database, reason_of
from session_authority_server.store.server_lock import ServerLock
from session_authority_server.store.sql_key_store import SqlKeyStore

_log = structlog.get_logger("session_authority")


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, make_schema: bool = False) -> AsyncIterator[Database]:
    """Open a database whose schema is one that this program works with.

    Args:
        settings: Which database.
        make_schema: Whether to make the schema where there is none at all.

    Raises:
        CannotStart: If the database can't be opened, or its schema is another.
    """
    database = database_of(settings, must_exist=not make_schema)
    try:
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
        yield database
    finally:
        await database.close()


async def refuse_lack(settings: Settings, database: Database) -> None:
    """Refuse to use a database in which every call would fail, though its schema's version is right.

    Raises:
        CannotStart: If a table, a column or a right is missing.
    """
    try:
        lack = await schema.read_lack(database)
    except StoreUnavailable as error:
        raise cannot_use(settings, error) from None
    if lack is not None:
        raise CannotStart(f"the database {settings.database} can't be used: {lack}")


def database_of(settings: Settings, *, must_exist: bool, read_only: bool = False) -> Database:
    """Return the database that the settings name, not yet connected to.

    Args:
        settings: Which database.
        must_exist: Whether a file that is not there is not to be made.
        read_only: Whether a file is to be opened without the means to change it, or to keep others waiting.

    Raises:
        CannotStart: If it is plain already that it can't be used.
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
    if not path.parent.is_dir():
        raise CannotStart(f"there is no folder {path.parent} for the database; make it first")
    if must_exist and not path.exists():
        raise CannotStart(
            f"there is no database {path}; name it in SESSION_AUTHORITY_DATABASE_URL, or make it "
            "with: session-authority migrate"
        )
    if not path.exists():
        path.touch(mode=0o600)  # addresses and names are nobody else's to read
    return Database.sqlite(path, read_only=read_only)


def cannot_use(settings: Settings, error: StoreUnavailable) -> CannotStart:
    """Return what to tell an operator whose database doesn't answer."""
    return CannotStart(
        f"the database {settings.database} can't be used: {reason_of(error.__cause__)}"
    )


def be_only_server_of(path: Path, stack: contextlib.AsyncExitStack) -> None:
    """Keep every other server from a SQLite file for as long as the stack lasts.

    Raises:
        CannotStart: If the folder can't be used.
        AlreadyServed: If another process serves it.
    """
    if not path.parent.is_dir():
        raise CannotStart(f"there is no folder {path.parent} for the database; make it first")
    try:
        stack.enter_context(ServerLock(path))
    except OSError as error:
        raise CannotStart(f"the folder {path.parent} can't be written to: {error}") from None


def key_store(
    settings: Settings, database: Database, stack: contextlib.AsyncExitStack
) -> SqlKeyStore:
    """Return the store of API keys, with a way to the database of its own that ends with the stack."""
    # Reads of its own, which no crowd of other calls keeps waiting until the keys are no longer believed.
    aside = database_of(settings, must_exist=True)
    stack.push_async_callback(aside.close)
    return SqlKeyStore(database, reads_from=aside)
