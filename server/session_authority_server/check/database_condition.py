"""Read how durable, encrypted and up to date a database is."""

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.check import database_identity
from session_authority_server.store.database import Database
from session_authority_server.store.liveness import is_live
from session_authority_server.store.tables import erasures, sessions, sweeps

# How many sessions to search for one that is still live: those with the latest check times.
SCANNED_ROWS = 1_000

# A role without pg_monitor reads null as the state of a standby. A running base backup is not a standby.
_POSTGRESQL = text(
    "SELECT current_setting('synchronous_commit') AS synchronous_commit, "
    "current_setting('fsync')::boolean AS fsync, "
    "current_setting('full_page_writes')::boolean AS full_page_writes, "
    "btrim(current_setting('synchronous_standby_names')) <> '' AS waits_for_standbys, "
    "(SELECT count(*) FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup') AS standbys, "
    "(SELECT count(*) FROM pg_stat_replication "
    "WHERE state IS DISTINCT FROM 'backup' AND sync_state = 'async') AS asynchronous_standbys, "
    "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) OR "
    "coalesce((SELECT encrypted FROM pg_stat_gssapi WHERE pid = pg_backend_pid()), false) AS encrypted, "
    "(SELECT string_agg(quote_ident(nspname), ', ') FROM pg_namespace WHERE nspname = ANY (current_schemas(false)) "
    "AND has_schema_privilege('public', oid, 'CREATE')) AS open_schemas, "
    "host(inet_client_addr()) AS client_address, host(inet_server_addr()) AS server_address"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteCondition:
    """The durability of a SQLite file.

    Attributes:
        journal_mode: The file's journal mode; servers set it to "wal".
    """

    journal_mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlCondition:
    """The durability and security of a PostgreSQL server, for connections of our role.

    Attributes:
        synchronous_commit: The setting for our role; it says how long a commit waits.
        fsync: Whether writes are flushed to the disk.
        full_page_writes: Whether a page that was half written in a crash can be restored.
        waits_for_standbys: Whether synchronous_standby_names lists any standby.
        standbys: Number of connected standbys.
        asynchronous_standbys: Number of standbys that no commit waits for, as far as our role may see.
        encrypted: Whether the connection is encrypted.
        verified: Whether the server must prove its identity.
        is_local: Whether the connection stays on this machine.
        open_schemas: The schemas of search_path in which every role may create objects; None if there are none.
    """

    synchronous_commit: str
    fsync: bool
    full_page_writes: bool
    waits_for_standbys: bool
    standbys: int
    asynchronous_standbys: int
    encrypted: bool
    verified: bool
    is_local: bool
    open_schemas: str | None = None


Condition = SqliteCondition | PostgresqlCondition


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The worker's oldest unfinished tasks.

    Attributes:
        sweep_time: When the oldest unfinished sweep was made; None if no sweep is unfinished. A sweep is one call that
            ends all sessions of a user or of everybody. It is unfinished while some of these sessions have no
            recorded ending.
        erase_time: Time of the oldest erasure that has not deleted everything; None if there is none.
    """

    sweep_time: datetime | None
    erase_time: datetime | None


async def read_condition(database: Database) -> Condition:
    """Return the condition of a database.

    Raises:
        StoreUnavailable: If the database doesn't answer.
    """

    async def work(connection: AsyncConnection) -> Condition:
        if connection.dialect.name == "sqlite":
            mode = (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one()
            return SqliteCondition(journal_mode=mode)
        row = (await connection.execute(_POSTGRESQL)).one()._asdict()
        client, server = row.pop("client_address"), row.pop("server_address")
        driver: Any = (await connection.get_raw_connection()).driver_connection
        return PostgresqlCondition(
            **row,
            verified=database_identity.is_server_verified(driver.info.get_parameters()),
            is_local=_is_local(client, server),
        )

    return await database.read(work)


async def read_backlog(database: Database) -> Backlog:
    """Return the worker's backlog of sweeps and erasures.

    Raises:
        StoreUnavailable: If the database doesn't answer.
    """
    statement = select(
        select(func.min(sweeps.c.sweep_time)).where(~sweeps.c.settled).scalar_subquery(),
        select(func.min(erasures.c.erase_time))
        .where(erasures.c.user_id.is_not(None))
        .scalar_subquery(),
    )

    async def work(connection: AsyncConnection) -> Backlog:
        sweep_time, erase_time = (await connection.execute(statement)).one()
        return Backlog(sweep_time=sweep_time, erase_time=erase_time)

    return await database.read(work)


async def read_last_check_time(database: Database, now: datetime) -> datetime | None:
    """Return the latest `check_time` of any live session; None if no session is live.

    A session's `check_time` is at most the end of its lifetime or the time at which it becomes idle. An index finds
    the latest times. If none of the latest `SCANNED_ROWS` sessions is live, return the latest of their times: a sweep
    ended them, but the worker has not recorded the endings yet.

    Raises:
        StoreUnavailable: If the database doesn't answer.
    """
    statement = (
        select(sessions.c.check_time, is_live(now).label("live"))
        .where(sessions.c.end_time.is_(None), sessions.c.check_time > now)
        .order_by(sessions.c.check_time.desc(), sessions.c.session_id.desc())
        .limit(SCANNED_ROWS)
    )

    async def work(connection: AsyncConnection) -> datetime | None:
        found = (await connection.execute(statement)).all()
        live = (row.check_time for row in found if row.live)
        return next(live, found[0].check_time if len(found) == SCANNED_ROWS else None)

    return await database.read(work)


def _is_local(client: str | None, server: str | None) -> bool:
    # Over a Unix socket, PostgreSQL reports no addresses.
    return client is None or client == server or ipaddress.ip_address(client).is_loopback
