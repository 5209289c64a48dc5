"""What the engines do differently, and what each must provide."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from session_authority_server.domain.session import Changes

# A query keeps its snapshot until the next statement of its transaction. Another connection that works CONCURRENTLY
# would wait for the snapshot to go. This statement takes none.
RELEASE_SNAPSHOT = "SET LOCAL client_min_messages = warning"
# The key in a connection's `info` that says that PostgreSQL did not wait for the synchronous standby.
COMMIT_IN_DOUBT = "commit in doubt"

# Returns the columns of a packed row, as the driver gives them.
Unpack: TypeAlias = Callable[[Any], Sequence[Any]]


class Dialect(Protocol):
    """One engine's ways.

    Attributes:
        takes_arrays: Whether a parameter can be an array.
        time_query: The statement that asks for the engine's time; None where its clock is this machine's.
        driver_errors: What the driver raises where SQLAlchemy is not in between.
    """

    takes_arrays: bool
    time_query: str | None
    driver_errors: tuple[type[Exception], ...]

    def reader(self) -> AsyncEngine:
        """Return an engine for single reads outside transactions, several at once."""
        ...

    def writer(self) -> AsyncEngine:
        """Return an engine for transactions."""
        ...

    def by_ids(self, column: ColumnElement[UUID]) -> ColumnElement[bool]:
        """Return the condition that a column is one of the parameter `ids`."""
        ...

    def packed(self, statement: Select[Any]) -> tuple[Select[Any], Unpack]:
        """Return a SELECT of the same rows, each in the form that is cheapest to fetch, and how to unpack a row."""
        ...

    async def fetch_packed(
        self, driver: Any, statement_for: Callable[[int], str], ids: Sequence[UUID]
    ) -> Sequence[Hashable]:
        """Run a SELECT of packed rows by ids on a driver's own connection.

        Args:
            driver: The driver's own connection.
            statement_for: Returns the statement that takes this number of ids.
            ids: The ids of the rows.
        """
        ...

    async def announce(self, connection: AsyncConnection, changes: Changes) -> None:
        """Have other processes told of changes when, and only if, the present transaction is committed."""
        ...

    def insert_if_absent(self, table: Table) -> Insert:
        """Return an INSERT that does nothing where a row of the same key exists."""
        ...

    def try_migration_lock(self, connection: Connection) -> bool:
        """Say whether no other transaction migrates the schema; if so, none does until this one ends."""
        ...

    def worker_settings(self) -> ColumnElement[Any]:
        """Return what, selected, fits a transaction to a worker who goes through an index in its order.

        Where the engine can, it is answered before it is safe, is given up by the engine if the worker is
        gone, and holds to the index even where the engine knows nothing of the table's contents.
        """
        ...

    async def interrupt(self, driver: Any) -> None:
        """Ask the engine to give up what it is doing for a driver's connection."""
        ...

    def cut_off(self, driver: Any) -> None:
        """Have whoever waits for the engine on a driver's connection wait no more."""
        ...
