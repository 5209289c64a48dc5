from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from session_authority_server.domain.api_key import ApiKey, KeyUse, Permission
from session_authority_server.store.database import Database
from session_authority_server.store.tables import api_key_uses, api_keys


class SqlKeyStore:
    """`ports.store.KeyStore` in SQL."""

    def __init__(self, database: Database, *, reads_from: Database | None = None) -> None:
        """Keep keys in a database.

        Args:
            database: The database.
            reads_from: The same database with other connections, so that reads of keys never queue behind other reads.
        """
        self._database = database
        self._reads_from = reads_from or database

    async def read_keys(self, ended_after: datetime | None = None) -> Sequence[ApiKey]:
        statement = select(api_keys).order_by(api_keys.c.key_id)
        if ended_after is not None:
            statement = statement.where(
                or_(api_keys.c.revoke_time.is_(None), api_keys.c.revoke_time > ended_after),
                or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > ended_after),
            )

        async def work(connection: AsyncConnection) -> Sequence[ApiKey]:
            return [_key(row) for row in await connection.execute(statement)]

        return await self._reads_from.read(work)

    async def add_key(self, key: ApiKey) -> None:
        await self._database.write(lambda connection: _insert(connection, key))

    async def expire_key(
        self, key_id: UUID, expire_time: datetime, now: datetime, successor: ApiKey | None = None
    ) -> bool:
        expires = api_keys.c.expire_time
        statement = (
            update(api_keys)
            .where(
                api_keys.c.key_id == key_id,
                api_keys.c.revoke_time.is_(None),
                or_(expires.is_(None), expires > now),
            )
            .values(
                expire_time=case(
                    (and_(expires.is_not(None), expires < expire_time), expires),
                    else_=literal(expire_time, expires.type),
                )
            )
        )

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(statement)).rowcount != 1:
                return False
            if successor is not None:
                await _insert(connection, successor)
            return True

        return await self._end(work)

    async def revoke_key(self, key_id: UUID, revoke_time: datetime) -> bool:
        statement = (
            update(api_keys)
            .where(api_keys.c.key_id == key_id, api_keys.c.revoke_time.is_(None))
            .values(revoke_time=revoke_time)
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement)).rowcount == 1

        return await self._end(work)

    async def _end(self, work: Callable[[AsyncConnection], Awaitable[bool]]) -> bool:
        """Run a transaction that ends a key, and mark it outside the database."""
        fence = self._database.fence
        if fence is None:
            return await self._database.write(work)

        async def marked(connection: AsyncConnection) -> tuple[bool, int]:
            return await work(connection), await fence.mark(connection)

        done, _ = await self._database.write(marked, lambda result: fence.note(result[1]))
        await fence.save()
        return done

    async def note_key_uses(
        self, uses: Collection[tuple[UUID, Permission]], time: datetime
    ) -> None:
        # All writers lock rows in the same order, to avoid deadlocks.
        in_order = sorted((key_id, permission.value) for key_id, permission in uses)
        key_ids = dict.fromkeys(key_id for key_id, _ in in_order)

        async def work(connection: AsyncConnection) -> None:
            for key_id in key_ids:
                last = api_keys.c.last_used_time
                await connection.execute(
                    update(api_keys)
                    .where(api_keys.c.key_id == key_id, or_(last.is_(None), last < time))
                    .values(last_used_time=time)
                )
            for key_id, permission in in_order:
                await self._note_use(connection, key_id, permission, time)

        if uses:
            await self._database.write(work)

    async def read_key_uses(self) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
        known = {each.value: each for each in Permission}

        async def work(connection: AsyncConnection) -> Mapping[UUID, Mapping[Permission, KeyUse]]:
            found: dict[UUID, dict[Permission, KeyUse]] = {}
            for key_id, name, first, last in await connection.execute(select(api_key_uses)):
                if name in known:
                    found.setdefault(key_id, {})[known[name]] = KeyUse(first, last)
            return found

        return await self._reads_from.read(work)

    async def _note_use(
        self, connection: AsyncConnection, key_id: UUID, permission: str, time: datetime
    ) -> None:
        uses = api_key_uses.c
        later = await connection.execute(
            update(api_key_uses)
            .where(uses.key_id == key_id, uses.permission == permission, uses.last_used_time < time)
            .values(last_used_time=time)
        )
        if later.rowcount:
            return
        first = select(
            api_keys.c.key_id,
            literal(permission),
            literal(time, uses.first_used_time.type),
            literal(time, uses.last_used_time.type),
        ).where(api_keys.c.key_id == key_id)
        await connection.execute(
            self._database.dialect.insert_if_absent(api_key_uses).from_select(list(uses), first)
        )


async def _insert(connection: AsyncConnection, key: ApiKey) -> None:
    await connection.execute(
        insert(api_keys).values(
            key_id=key.key_id,
            name=key.name,
            secret_hash=key.secret_hash,
            permissions=tuple(sorted(each.value for each in key.permissions)),
            create_time=key.create_time,
            expire_time=key.expire_time,
            revoke_time=key.revoke_time,
            last_used_time=key.last_used_time,
        )
    )


def _key(row: Any) -> ApiKey:
    # Ignore permissions that only a newer release knows.
    known = {each.value: each for each in Permission}
    permissions = frozenset(known[name] for name in row.permissions if name in known)
    return ApiKey(**{**row._mapping, "permissions": permissions})
