"""How well a database is set up to keep what it was told, as it says itself. Only reads."""

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

# How many sessions are looked at for one that no sweep has ended.
LOOKED_AT = 1_000

# Who may not see more than that there is a standby sees nulls. A running base backup is none.
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
    """How a SQLite file is kept.

    Attributes:
        journal_mode: The mode that the file is in; servers make it "wal".
    """

    journal_mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlCondition:
    """How a PostgreSQL server keeps what is committed over a connection like ours.

    Attributes:
        synchronous_commit: What a commit waits for.
        fsync: Whether what it writes is made to reach the disk.
        full_page_writes: Whether a page that a crash tore can be mended.
        waits_for_standbys: Whether it has been told of any standby that commits are to wait for.
        standbys: How many follow it now.
        asynchronous_standbys: How many of these no commit waits for, as far as our role may see.
        encrypted: Whether the connection is.
        verified: Whether the server has to prove who it is.
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
    """Since when something waits for the worker; None where nothing does.

    Attributes:
        sweep_time: That of the oldest sweep whose endings are not all recorded.
        erase_time: That of the oldest erasure that has not deleted everything.
    """

    sweep_time: datetime | None
    erase_time: datetime | None


async def read_condition(database: Database) -> Condition:
    """Return how a database is set up.

    Raises:
        StoreUnavailable: If it doesn't answer.
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
    """Return what waits for the worker, but for overdue sessions.

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
    """Return until when that live session needs no look which needs one last; None where there is none.

    Of the limits that sessions began under, nothing else is indexed: one without an idle timeout needs a look when
    its lifetime is over, others when they would have idled. Where the last `LOOKED_AT` were all swept, and the worker
    has not recorded it, it is the last of these.

    Raises:
        StoreUnavailable: If the database doesn't answer.
    """
    statement = (
        select(sessions.c.check_time, is_live(now).label("live"))
        .where(sessions.c.end_time.is_(None), sessions.c.check_time > now)
        .order_by(sessions.c.check_time.desc(), sessions.c.session_id.desc())
        .limit(LOOKED_AT)
    )

    async def work(connection: AsyncConnection) -> datetime | None:
        found = (await connection.execute(statement)).all()
        live = (row.check_time for row in found if row.live)
        return next(live, found[0].check_time if len(found) == LOOKED_AT else None)

    return await database.read(work)


def _is_local(client: str | None, server: str | None) -> bool:
    # Neither is there where the connection is a file's.
    return client is None or client == server or ipaddress.ip_address(client).is_loopback
