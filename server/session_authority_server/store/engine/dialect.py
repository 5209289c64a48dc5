"""The operations that SQLite and PostgreSQL perform in different ways."""

from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.session import Changes

# A transaction keeps the snapshot of its last query until its next statement. A CONCURRENTLY command on another
# connection waits for that snapshot. This statement takes no snapshot, so it releases the last one.
RELEASE_SNAPSHOT = "SET LOCAL client_min_messages = warning"
# The key in a connection's `info` for a commit that the synchronous standby did not confirm.
COMMIT_IN_DOUBT = "commit in doubt"

# Unpacks a row into its columns. The values are those of the driver, not decoded.
Unpack: TypeAlias = Callable[[Any], Sequence[Any]]


class Dialect(Protocol):
    """The operations of one engine.

    Attributes:
        takes_arrays: Whether a parameter can be an array.
        time_query: The statement that reads the engine's clock. None if the engine uses this machine's clock.
        driver_errors: The exceptions of the driver, for calls that bypass SQLAlchemy.
    """

    takes_arrays: bool
    time_query: str | None
    driver_errors: tuple[type[Exception], ...]

    def reader(self) -> AsyncEngine:
        """Return an engine for concurrent reads outside transactions."""
        ...

    def writer(self) -> AsyncEngine:
        """Return an engine for transactions."""
        ...

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        """Return the condition that a column equals one of the ids in the parameter `ids`."""
        ...

    def packed(self, statement: Select[Any]) -> tuple[Select[Any], Unpack]:
        """Return a SELECT of the same rows in the engine's cheapest form, and a function that unpacks such a row."""
        ...

    async def fetch_packed(
        self, driver: Any, statement_for: Callable[[int], str], ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        """Run a SELECT of packed rows by id, without SQLAlchemy.

        Args:
            driver: The driver's connection.
            statement_for: Returns the statement for a number of ids.
            ids: The ids of the rows.
        """
        ...

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        """Notify the other processes of changes, if and when the current transaction commits."""
        ...

    async def estimate_live(self, connection: AsyncConnection, now: datetime) -> int:
        """Return about how many sessions have neither expired nor a recorded ending, in constant time."""
        ...

    def insert_if_absent(self, table: Table) -> Insert:
        """Return an INSERT that skips a row whose key exists already."""
        ...

    def identity_locks(self, hashes: Sequence[bytes]) -> Sequence[ColumnElement[Any]]:
        """Return expressions that lock identities until the transaction ends, shared with other sign-ins."""
        ...

    async def lock_identity(self, connection: AsyncConnection, identity_hash: bytes) -> None:
        """Lock an identity until the transaction ends. Wait for all other locks of it."""
        ...

    def try_migration_lock(self, connection: Connection) -> bool:
        """Lock the schema against other migrations until the transaction ends. Return False if one is running."""
        ...

    def worker_settings(self, *, durable: bool = False) -> ColumnElement[Any]:
        """Return an expression that changes the settings of the transaction that selects it, for a worker.

        On PostgreSQL:

        * The commit does not wait for the disk, unless it must be `durable`.
        * The server ends the transaction if the worker disappears.
        * Queries follow an index in its order, even without statistics about the table.
        """
        ...

    async def interrupt(self, driver: Any) -> None:
        """Ask the engine to cancel the statement that runs on a driver's connection."""
        ...

    def cut_off(self, driver: Any) -> None:
        """Break a driver's connection, so that a task that waits on it gets an error."""
        ...
