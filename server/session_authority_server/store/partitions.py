"""Partitions of the table `sessions` by the time in session ids, for very large installations on PostgreSQL.

Dropping a partition replaces deleting and vacuuming its rows one by one. docs/operate/scale.md says what partitions
cost each read, and when they are worth it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.token import first_id
from session_authority_server.store.database import Database
from session_authority_server.store.engine.dialect import RELEASE_SNAPSHOT
from session_authority_server.store.tables import authority

# How far ahead partitions are created. Without a worker, sign-ins fail after this time.
AHEAD = timedelta(days=30)
_PREFIX = "sessions_until_"
_STORAGE = (
    "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
    "autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02"
)
# Arbitrary; other programs are unlikely to use the same numbers. Two locks, because creating a partition must not wait
# for a drop, which can take long.
_DROPPING_LOCK = 0x5E551014_A07408
_MAKING_LOCK = 0x5E551015_A07408
# Includes partitions that are detached but not dropped. A worker that was killed leaves them behind.
_EXISTING = text(
    "SELECT c.relname, i.inhparent IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending "
    "FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid "
    f"WHERE c.relkind = 'r' AND c.relname ~ '^{_PREFIX}[0-9]{{8}}$' "
    "AND c.relnamespace = quote_ident(current_schema())::regnamespace ORDER BY c.relname"
)
_DETACH_SECONDS = 60.0
_READ_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How to partition the sessions of a new database.

    Attributes:
        days: The number of days whose sign-ins one partition holds.
        now: The current time, which the first partition covers.
    """

    days: int
    now: datetime


def first_partitions(partitioning: Partitioning) -> Iterator[str]:
    """Yield the statements that create the partitions of a new table."""
    span = timedelta(days=partitioning.days)
    for end in _missing_ends([], span, partitioning.now):
        yield from _creation_statements(end, span, first=end <= partitioning.now + span)


def partitioning_statement(partitioning: Partitioning) -> str:
    """Return the statement that records how a database's sessions are partitioned."""
    return f"UPDATE authority SET partition_days = {partitioning.days:d}"


class Partitions:
    """The partitions of one database. Without partitions, reads return nothing and changes do nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def span(self) -> timedelta | None:
        """Return the duration whose sign-ins one partition holds, or None without partitions."""

        async def work(connection: AsyncConnection) -> timedelta | None:
            days = (await connection.execute(select(authority.c.partition_days))).scalar_one()
            return None if days is None else timedelta(days=days)

        return await self._database.read(work)

    async def missing(self, now: datetime) -> Sequence[datetime]:
        """Return the end times of the partitions to create."""
        span = await self.span()
        if span is None:
            return ()

        async def work(connection: AsyncConnection) -> Sequence[datetime]:
            existing = await connection.execute(_EXISTING)
            attached = [_end(row.relname) for row in existing if row.attached]
            return list(_missing_ends(attached, span, now))

        return await self._database.read(work)

    async def droppable(self, created_before: datetime, ended_before: datetime) -> Sequence[str]:
        """Return the names of the partitions to drop.

        Args:
            created_before: Partitions that hold later sign-ins stay.
            ended_before: Partitions with a session that ended later stay.
        """
        if await self.span() is None:
            return ()

        async def work(connection: AsyncConnection) -> Sequence[str]:
            # No caller waits for this, and it reads whole partitions.
            await connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_READ_SECONDS}s'")
            return [
                row.relname
                for row in (await connection.execute(_EXISTING)).all()
                if not row.attached
                or row.pending
                or (
                    _end(row.relname) <= created_before
                    and await _is_droppable(connection, row.relname, ended_before)
                )
            ]

        return await self._database.write(work, limited=False)

    async def make(self, end: datetime) -> bool:
        """Create the partition that ends at a time. Return False if it exists."""
        span = await self.span()
        if span is None:
            return False

        async def work(connection: AsyncConnection) -> bool:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MAKING_LOCK})")
            if end in [_end(row.relname) for row in await connection.execute(_EXISTING)]:
                return False
            for statement in _creation_statements(end, span):
                await connection.exec_driver_sql(statement)
            return True

        return await self._database.write(work)

    async def drop(self, name: str) -> bool:
        """Drop a partition. Return False if another process is dropping partitions or has dropped this one.

        Other partitions stay available for reads and writes.
        """
        if await self.span() is None:
            return False

        async def work(connection: AsyncConnection) -> bool:
            if not await _take_drop_lock(connection):
                return False
            states = {row.relname: row for row in await connection.execute(_EXISTING)}
            if name not in states:
                return False
            if states[name].attached:
                await connection.exec_driver_sql(RELEASE_SNAPSHOT)
                # CONCURRENTLY keeps the table available. PostgreSQL does not allow it in a transaction.
                how = "FINALIZE" if states[name].pending else "CONCURRENTLY"
                await self._database.run_alone(
                    f"ALTER TABLE sessions DETACH PARTITION {name} {how}", _DETACH_SECONDS
                )
            await connection.exec_driver_sql(f"DROP TABLE {name}")
            return True

        return await self._database.write(work, limited=False)


def _missing_ends(ends: Sequence[datetime], span: timedelta, now: datetime) -> Iterator[datetime]:
    """Yield the end times of the partitions to create, given those of the existing ones."""
    end = max(ends) if ends else datetime.combine(now, time(), UTC)
    while end < now + max(AHEAD, 2 * span):
        end += span
        yield end


def _creation_statements(end: datetime, span: timedelta, *, first: bool = False) -> Iterator[str]:
    name = f"{_PREFIX}{end:%Y%m%d}"
    start = "MINVALUE" if first else f"'{first_id(end - span)}'"
    # Attaching a table does not block the use of `sessions`. CREATE TABLE ... PARTITION OF would.
    yield f"CREATE TABLE {name} (LIKE sessions INCLUDING ALL) WITH ({_STORAGE})"
    yield (
        f"ALTER TABLE sessions ATTACH PARTITION {name} FOR VALUES FROM ({start}) "
        f"TO ('{first_id(end)}')"
    )


def _end(name: str) -> datetime:
    return datetime.strptime(name.removeprefix(_PREFIX), "%Y%m%d").replace(tzinfo=UTC)


async def _is_droppable(connection: AsyncConnection, name: str, ended_before: datetime) -> bool:
    """Return whether all sessions of a partition ended or expired before a time."""
    for obstacle in (
        # The first two use an index. The last one reads the partition, so it runs only if the others found no row.
        "end_time >= :ended_before",
        "end_time IS NULL AND check_time >= :ended_before",
        "end_time IS NULL AND expire_time >= :ended_before",
    ):
        statement = text(f"SELECT EXISTS (SELECT FROM {name} WHERE {obstacle})")
        if (await connection.execute(statement, {"ended_before": ended_before})).scalar_one():
            return False
    return True


async def _take_drop_lock(connection: AsyncConnection) -> bool:
    """Take the lock for dropping partitions until the transaction ends. Return False if another process has it."""
    lock = text(f"SELECT pg_try_advisory_xact_lock({_DROPPING_LOCK})")
    return bool((await connection.execute(lock)).scalar_one())
