"""Looks for acknowledged endings that a database lacks, and records them until an operator has dealt with them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.clock import Clock
from session_authority_server.domain.errors import EndingsLost, StoreUnavailable
from session_authority_server.store.database import Database
from session_authority_server.store.fence import Comparison, Fence, Mark
from session_authority_server.store.tables import api_keys, ending_marks, sessions

_log = logging.getLogger(__name__)

# How often a server looks. It also checks each new connection before its first use.
CHECK_SECONDS = 1.0
# How many marks of a process the database keeps, in addition to those in the file of the process. At least half of them
# are kept, because a slow transaction may commit a lower number than those in the file.
EXTRA_MARKS_LIMIT = 1_000


class RecordedLoss(NamedTuple):
    """The lost endings that servers have recorded, and when a server first noticed them."""

    lost: frozenset[Mark]
    noticed_time: datetime


class LostEndings:
    """The acknowledged endings that a database lacks.

    A server records them in the database, so that all servers stop and every operator can resolve them.
    """

    def __init__(self, database: Database, fence: Fence, clock: Clock) -> None:
        self._database = database
        self._fence = fence
        self._clock = clock
        self._deleted = 0

    @property
    def are_known(self) -> bool:
        """Whether the latest look or connection found lost endings."""
        return self._fence.lost is not None

    async def look(self) -> frozenset[Mark]:
        """Compare the database with the state directory, and update `Fence.lost`. Return the lost endings.

        Raises:
            StoreUnavailable: If the database or the state directory can't be used.
            EndingsLost: If the database went back in time during the look.
        """
        fence = self._fence
        ended, refusals = fence.ended(), fence.refusals
        found = await self._database.read(fence.compare)
        if found.missing:
            found = await self._record(found)
        if found.lost:
            fence.refuse(found.lost)
        elif fence.refusals == refusals:  # No new connection found a loss meanwhile.
            fence.clear()
            await self._tidy(ended)
        return found.lost

    async def watch(self, report: Callable[[], Awaitable[None]]) -> None:
        """Look repeatedly until cancelled. Call `report` whenever the server stops serving or serves again."""
        reported = self._fence.lost
        while True:
            if self._fence.lost is not reported:
                reported = self._fence.lost
                await report()
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.look()
            except (StoreUnavailable, EndingsLost):
                pass  # already logged
            except Exception:  # noqa: BLE001 - the next look may succeed
                _log.exception("lost endings can't be looked for; the next attempt follows")

    async def _record(self, found: Comparison) -> Comparison:
        """Record missing marks in the database. A new database lacks them too, but has lost no ending."""
        lost_time = self._clock.now()
        marks = [{**mark._asdict(), "lost_time": lost_time} for mark in sorted(found.missing)]
        inserting = self._database.dialect.insert_if_absent(ending_marks)

        async def work(connection: AsyncConnection) -> bool:
            # `pg_restore` adds primary keys after all rows. Until then this INSERT fails, so a database whose sessions
            # are still to be restored never counts as new.
            await connection.execute(inserting, marks)
            is_new = await _is_new(connection)
            if is_new:
                await _resolve(connection, found.missing)
            return is_new

        try:
            is_new = await self._database.write(work)
        except StoreUnavailable:
            self._fence.refuse(found.lost)  # It may still be possible to read the database.
            raise
        return Comparison(frozenset(), found.recorded) if is_new else found

    async def _tidy(self, ended: Collection[UUID]) -> None:
        """Remove the files and marks of ended processes, and old marks of this process."""
        fence = self._fence
        spare = EXTRA_MARKS_LIMIT // 2
        if fence.saved - self._deleted >= spare:
            self._deleted = fence.saved
            await self._delete(fence.directory.process_id, below=fence.oldest - spare)
        if fence.holds_numbers(ended):
            # A database that goes back in time loses its newest writes first. While it has this new mark, it has
            # lost no earlier one, so the marks of the ended processes are no longer needed.
            await self._database.write(self._mark_if_complete, fence.note)
            await fence.save()
        for process_id in ended:
            # Remove the file first. A file whose marks are deleted would look like a loss.
            fence.remove(process_id)
            await self._delete(process_id)

    async def _mark_if_complete(self, connection: AsyncConnection) -> int:
        """Insert a mark if the database has every other mark. A pooler may have switched to another database.

        Raises:
            EndingsLost: If the database lacks one.
        """
        lost = (await self._fence.compare(connection)).lost
        if lost:
            raise self._fence.refuse(lost)
        return await self._fence.mark(connection)

    async def _delete(self, process_id: UUID, *, below: int | None = None) -> None:
        marks = ending_marks.c
        old = [marks.process_id == process_id]
        if below is not None:
            old.append(marks.number < below)
        statement = delete(ending_marks).where(*old)
        await self._database.write(lambda connection: connection.execute(statement))


async def read_recorded(database: Database) -> RecordedLoss | None:
    """Return the lost endings that servers have recorded; None if nothing is lost.

    Raises:
        StoreUnavailable: If the store failed.
    """
    marks = ending_marks.c
    statement = select(marks.process_id, marks.number, marks.lost_time).where(
        marks.lost_time.is_not(None)
    )

    async def work(connection: AsyncConnection) -> RecordedLoss | None:
        rows = (await connection.execute(statement)).all()
        if not rows:
            return None
        lost = frozenset(Mark(row.process_id, row.number) for row in rows)
        return RecordedLoss(lost, min(row.lost_time for row in rows))

    return await database.read(work)


async def resolve(database: Database, lost: Collection[Mark]) -> None:
    """Record that an operator has dealt with lost endings. The servers then serve again.

    Raises:
        StoreUnavailable: If the store failed; a repetition is safe.
    """
    await database.write(lambda connection: _resolve(connection, lost))


async def _resolve(connection: AsyncConnection, lost: Collection[Mark]) -> None:
    marks = ending_marks.c
    for process_id, number in sorted(lost):
        await connection.execute(
            update(ending_marks)
            .where(marks.process_id == process_id, marks.number == number)
            .values(lost_time=None)
        )


async def _is_new(connection: AsyncConnection) -> bool:
    """Return whether a database has no session and no API key, so that none can be valid again."""
    for table in (sessions, api_keys):
        if (await connection.execute(select(table).limit(1))).first() is not None:
            return False
    return True
