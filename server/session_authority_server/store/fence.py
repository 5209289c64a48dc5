"""Marks acknowledged endings in the database and outside it, and compares the marks.

(docs/decisions/0020-endings-are-marked-outside-the-database.md)
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Select, and_, bindparam, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.errors import EndingsLost, StoreUnavailable
from session_authority_server.observability.metrics import FENCE_CLOSED
from session_authority_server.store.state_directory import (
    NUMBERS_LIMIT,
    StateDirectory,
    StateUnusable,
)
from session_authority_server.store.tables import ending_marks

# Inserts a mark if the database has an earlier mark of the process, and no server has recorded that one as lost.
_INSERT_AFTER = (
    insert(ending_marks)
    .from_select(
        ["process_id", "number"],
        select(
            ending_marks.c.process_id, bindparam("new_number", type_=ending_marks.c.number.type)
        ).where(
            ending_marks.c.process_id == bindparam("of_process"),
            ending_marks.c.number == bindparam("earlier_number"),
            ending_marks.c.lost_time.is_(None),
        ),
    )
    .execution_options(preserve_rowcount=True)
)

_log = logging.getLogger(__name__)


class Mark(NamedTuple):
    """The mark of one acknowledged ending."""

    process_id: UUID
    number: int


class Comparison(NamedTuple):
    """The marks that a database lacks.

    Attributes:
        missing: The marks that are in the state directory, but not in the database.
        recorded: The marks that are recorded in the database as lost. Any server may have recorded them.
    """

    missing: frozenset[Mark]
    recorded: frozenset[Mark]

    @property
    def lost(self) -> frozenset[Mark]:
        """All lost marks."""
        return self.missing | self.recorded


class Fence:
    """Marks each ending that this process acknowledges, and finds marks of any process that the database lacks.

    Attributes:
        directory: The files outside the database.
        lost: The error that answers every call while endings are lost; None if none is lost.
        refusals: How often a comparison found lost endings.
        saved: How many marks of this process are on the disk outside the database.
        oldest: The lowest number in the file of this process; 0 if there is none.
    """

    def __init__(self, directory: StateDirectory) -> None:
        """Use an open state directory."""
        self.directory = directory
        self.lost: EndingsLost | None = None
        self.refusals = 0
        self.saved = 0
        self.oldest = 0
        self._latest: deque[int] = deque(maxlen=NUMBERS_LIMIT)
        self._next, self._noted = 1, 0
        # A number in the file of this process.
        self._earlier = 0
        self._saving = asyncio.Lock()
        # One thread, so that an older block never overwrites a newer one.
        self._thread = ThreadPoolExecutor(1, "state-directory")
        FENCE_CLOSED.set(0)

    async def mark(self, connection: AsyncConnection) -> int:
        """Insert a mark in the transaction of an ending. Return its number.

        The database must have an earlier mark of this process. A pooler may switch to a database that went back in
        time. Without this condition, new marks could fill the file before the next comparison, and hide the loss.

        Raises:
            EndingsLost: If the database lacks the earlier mark.
        """
        number, self._next = self._next, self._next + 1
        process_id, earlier = self.directory.process_id, self._earlier
        if not earlier:
            first = {"process_id": process_id, "number": number}
            await connection.execute(insert(ending_marks), first)
            return number
        values = {"of_process": process_id, "new_number": number, "earlier_number": earlier}
        inserted = await connection.execute(_INSERT_AFTER, values)
        if inserted.rowcount != 1:
            raise self.refuse({Mark(process_id, earlier)})
        return number

    def note(self, number: int) -> None:
        """Record that the transaction of a mark is committed. `save` must follow before the ending is acknowledged."""
        self._latest.append(number)
        self._noted += 1

    async def save(self) -> None:
        """Wait until all noted marks are on the disk outside the database. Callers that wait share one write.

        Raises:
            StoreUnavailable: If the state directory can't be written.
        """
        wanted = self._noted
        async with self._saving:
            if self.saved >= wanted:
                return
            noted, numbers = self._noted, list(self._latest)
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._thread, self.directory.write, numbers)
            except OSError as error:
                _log.error(
                    "endings can't be acknowledged: the state directory %s can't be written: %s",
                    self.directory.path,
                    error.strerror,
                )
                raise StoreUnavailable("writing") from error
            self.saved, self.oldest, self._earlier = noted, min(numbers), numbers[-1]

    async def check(self, connection: AsyncConnection) -> bool:
        """Compare a database with the state directory. Set `lost` if endings are lost. Return whether none is.

        Raises:
            SQLAlchemyError: If the database can't be read.
            StoreUnavailable: If the state directory can't be read.
        """
        lost = (await self.compare(connection)).lost
        if lost:
            self.refuse(lost)
        return not lost

    async def compare(self, connection: AsyncConnection) -> Comparison:
        """Compare a database with the state directory.

        Raises:
            SQLAlchemyError: If the database can't be read.
            StoreUnavailable: If the state directory can't be read.
        """
        expected = self._read()
        present: set[Mark] = set()
        recorded: set[Mark] = set()
        for row in await connection.execute(_marks_of(expected)):
            found = present if row.lost_time is None else recorded
            found.add(Mark(row.process_id, row.number))
        missing = _flat(expected) - present - recorded
        if missing:
            # A process may have replaced its marks between the two reads.
            missing &= _flat(self._read())
        return Comparison(frozenset(missing), frozenset(recorded))

    def ended(self) -> Sequence[UUID]:
        """Return the ended processes that have a file.

        Raises:
            StoreUnavailable: If the state directory can't be read.
        """
        with _readable():
            return self.directory.ended()

    def holds_numbers(self, processes: Collection[UUID]) -> bool:
        """Return whether the file of any of these processes holds a number.

        Raises:
            StoreUnavailable: If the state directory can't be read.
        """
        with _readable():
            return any(map(self.directory.has_numbers, processes))

    def _read(self) -> Mapping[UUID, Set[int]]:
        """Return the numbers of each process that the database must have."""
        with _readable():
            found = dict(self.directory.read())
        if self._earlier:  # New marks require this one, even if somebody removed the file.
            own = self.directory.process_id
            found[own] = {*found.get(own, ()), self._earlier}
        return found

    def remove(self, process_id: UUID) -> None:
        """Remove the file of an ended process.

        Raises:
            StoreUnavailable: If the state directory can't be written.
        """
        try:
            self.directory.remove(process_id)
        except OSError as error:
            _log.error(
                "a file of an ended process can't be removed from the state directory %s: %s",
                self.directory.path,
                error.strerror,
            )
            raise StoreUnavailable("writing") from error

    def refuse(self, lost: Collection[Mark]) -> EndingsLost:
        """Count a comparison that found lost endings, and set `lost`. Return the error for calls."""
        self.refusals += 1
        if self.lost is None:
            _log.error(
                "stopped serving: acknowledged endings are missing from the database (at least %d), because a backup was "
                "restored, a standby took over, or another deployment uses the state directory %s; run: "
                "session-authority fence",
                len(lost),
                self.directory.path,
            )
            self.lost = EndingsLost()
            FENCE_CLOSED.set(1)
        return self.lost

    def clear(self) -> None:
        """Reset `lost`, because the database has every mark."""
        if self.lost is not None:
            _log.warning("no acknowledged ending is missing any more; serving")
            self.lost = None
            FENCE_CLOSED.set(0)

    def close(self) -> None:
        """Wait for the last write, and close the state directory."""
        self._thread.shutdown()
        self.directory.close()


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Log that the state directory can't be read, and raise StoreUnavailable."""
    try:
        yield
    except StateUnusable as error:
        _log.error("%s", error)
        raise StoreUnavailable("reading") from error


def _flat(numbers: Mapping[UUID, Set[int]]) -> set[Mark]:
    return {Mark(process_id, each) for process_id, found in numbers.items() for each in found}


def _marks_of(expected: Mapping[UUID, Set[int]]) -> Select[Any]:
    """Return a SELECT of the expected marks, and of those that are recorded as lost."""
    marks = ending_marks.c
    expecting = (
        and_(marks.process_id == process_id, marks.number >= min(numbers))
        for process_id, numbers in expected.items()
        if numbers
    )
    return select(marks.process_id, marks.number, marks.lost_time).where(
        or_(marks.lost_time.is_not(None), *expecting)
    )
